"""``subnet.yaml``: one subnet of a supernet, as plain data.

.. code-block:: yaml

    version: 1
    supernet: 5f70bf18…                # which supernet it is of: the hash of its structure without choices
    choices: {conv1_(0, 64)_64: 32, …}
    kept: {…}                          # unit → the channels that are kept, where these aren't the first ones
    resources: {macs: 460810, …}       # of one sample
    metrics: {val_acc: 0.93}           # as whoever saved it says
    weights: subnet.safetensors        # beside this file; null for a structure alone
    structure: {version: 1, template: …, fingerprint: …}   # of the supernet

Nothing in it is imported or called; what is said of structures (:mod:`lightning_channels.mutators.structure`) holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from lightning_channels._plain import is_number, read_file, to_plain
from lightning_channels.artifacts.weights import ENDING
from lightning_channels.errors import StructureError, check_complete, check_keys
from lightning_channels.mutators.supernet import structure_hash, without_choices

__all__ = ["VERSION", "check_supernet", "compose", "identity", "read_subnet", "structure_of"]

VERSION = 1
_KEYS = ("version", "supernet", "choices", "resources", "metrics", "weights", "structure")
_OPTIONAL = ("kept",)
_PARTS = ("version", "template", "fingerprint")
_DICTS = ("choices", "resources", "metrics", "structure")
_NUMBERS = ("resources", "metrics")


def compose(
    structure: Mapping[str, Any], resources: Mapping[str, float], metrics: Mapping[str, float], weights: str | None
) -> dict[str, Any]:
    """Put the file's data together.

    Args:
        structure: Of the mutator, at the subnet's choices.
        resources: What the subnet costs.
        metrics: How good it is.
        weights: Name of the file beside this one.
    """
    kept = {"kept": structure["kept"]} if "kept" in structure else {}
    return {
        "version": VERSION,
        "supernet": structure_hash(structure),
        "choices": structure["choices"],
        **kept,
        "resources": dict(resources),
        "metrics": dict(metrics),
        "weights": weights,
        "structure": without_choices(structure),
    }


def read_subnet(path: Path) -> dict[str, Any]:
    """Read a file and check its form; whether it fits a model shows when its structure is used.

    Raises:
        ConfigError: If it can't be read.
        StructureError: If it is no subnet; the message names the file.
    """
    data = read_file(path)
    try:
        return _checked(data)
    except StructureError as error:
        raise StructureError(f"{path}: {error}") from error


def _checked(data: Any) -> dict[str, Any]:
    check_keys(data, (*_KEYS, *_OPTIONAL), "a subnet", StructureError)
    check_complete(data, _KEYS, "the subnet", StructureError)
    if data["version"] != VERSION or isinstance(data["version"], bool):
        raise StructureError(
            f"the subnet has version {data['version']!r}; this release reads version {VERSION}. Take the release that "
            "wrote it"
        )
    for key in _DICTS:
        if not isinstance(data[key], dict):
            raise StructureError(f"{key!r} of a subnet must be a dict, got {type(data[key]).__name__}")
    for key in _NUMBERS:
        for name, value in data[key].items():
            if not is_number(value):
                raise StructureError(f"{key!r} of a subnet must be numbers, got {value!r:.200} for {name!r}")
    if not isinstance(data["supernet"], str):
        raise StructureError(f"'supernet' of a subnet must be a hash, got {data['supernet']!r:.200}")
    _check_weights(data["weights"])
    check_keys(data["structure"], _PARTS, "the structure of a subnet", StructureError)
    return to_plain(data, "subnet")  # type: ignore[no-any-return]


def _check_weights(name: Any) -> None:
    """A file beside this one, and no path to elsewhere."""
    if name is None:
        return
    bare = isinstance(name, str) and all(_is_bare(kind(name)) for kind in (PurePosixPath, PureWindowsPath))
    if not bare or not name.endswith(ENDING):
        raise StructureError(f"'weights' of a subnet must be the name of a {ENDING} file beside it, got {name!r:.200}")


def _is_bare(path: PurePath) -> bool:
    return path.name == str(path) and not path.anchor


def structure_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The structure that a subnet's mutator is made from, with the subnet's choices.

    Args:
        data: What :func:`read_subnet` returned.
    """
    chosen = {key: data[key] for key in ("choices", "kept") if key in data}
    return {**data["structure"], **chosen}


def check_supernet(data: Mapping[str, Any]) -> None:
    """Compare the hash with the structure, whose form has been checked.

    Raises:
        StructureError: If it is that of another supernet.
    """
    found = structure_hash(data["structure"])
    if found != data["supernet"]:
        raise StructureError(
            f"the subnet is of the supernet {data['supernet']:.12}…, and its structure is that of {found:.12}…; take "
            "the file as it was written"
        )


def identity(data: Mapping[str, Any]) -> str:
    """A digest of supernet, choices and kept channels: what weights are of."""
    told = [data["supernet"], data["choices"], data.get("kept", {})]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
