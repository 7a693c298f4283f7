"""What a checkpoint of a run holds: weights, and the structures of what was prepared."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_channels._plain import read_file, to_plain
from lightning_channels.callbacks._checkpoints import PRUNING
from lightning_channels.errors import ConfigError

__all__ = ["Stored", "plain_structure", "read_checkpoint"]

_KEY = re.compile(r"ChannelPruning(?:\[(.+)\])?")
_BESIDE = ".structure.yaml"


class Stored(NamedTuple):
    """The plain data of a checkpoint.

    Attributes:
        weights: The LightningModule's.
        structures: Dotted name of what was prepared (None for the whole module) → structure.
        unnamed: A structure of which no name is known: from the file beside a checkpoint that has weights alone.
        is_pruned: Whether the run pruned, so that its widths are more than the last ones that were drawn.
    """

    weights: Mapping[str, Tensor]
    structures: Mapping[str | None, dict[str, Any]]
    unnamed: dict[str, Any] | None = None
    is_pruned: bool = False


def read_checkpoint(path: Path) -> Stored:
    """Read a checkpoint; nothing in it is imported or run.

    Raises:
        ConfigError: If it isn't one of Lightning's, or if it holds more than data.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises many kinds, all of which mean: not readable as data
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"the checkpoint {path} can't be read as plain data ({said})") from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ConfigError(f"{path} is no checkpoint of Lightning's: it has no state_dict of tensors")
    states = checkpoint.get("callbacks")
    found = {key: _KEY.fullmatch(key) for key in states if isinstance(key, str)} if isinstance(states, dict) else {}
    structures = {match[1]: plain_structure(states[key], key) for key, match in found.items() if match is not None}
    if structures:
        return Stored(weights, structures, is_pruned=any(PRUNING in states[key] for key, m in found.items() if m))
    stem = path.name.removesuffix(".ckpt")
    files = sorted(path.parent.glob(f"{glob.escape(stem)}*{_BESIDE}"))
    named = {file.name[len(stem) : -len(_BESIDE)].removeprefix("."): read_file(file) for file in files}
    return Stored(weights, {name: data for name, data in named.items() if name}, named.get(""))


def plain_structure(state: Any, key: str) -> Any:
    """The structure in a callback's state; a pruning's has tensors as well, and a mutator is made without it."""
    if isinstance(state, dict):
        state = {name: value for name, value in state.items() if name != PRUNING}
    return to_plain(state, key)
