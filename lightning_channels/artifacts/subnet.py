"""A subnet in two files, and the small model made from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from lightning_channels._modules import named_modules_of
from lightning_channels._plain import is_number, write_file
from lightning_channels.artifacts._packages import needed
from lightning_channels.artifacts.subnet_file import check_supernet, compose, identity, read_subnet, structure_of
from lightning_channels.artifacts.weights import ENDING, SUBNET, load_weights, write_weights
from lightning_channels.errors import ConfigError, PrepareError
from lightning_channels.export.static import chosen, export_subnet, static_copy
from lightning_channels.mutators import ChannelMutator, find_mutator
from lightning_channels.resources import Resources
from lightning_channels.units.choosing import Choice

__all__ = ["load_subnet", "save_subnet"]

_NAME = "subnet.yaml"
_ENDINGS = (".yaml", ".yml", ".json")
_OTHER = (ENDING, ".pt", ".pth", ".pt2", ".ckpt", ".onnx")


def save_subnet(
    model: nn.Module,
    path: str | os.PathLike[str],
    choices: Mapping[str, Choice] | None = None,
    *,
    metrics: Mapping[str, float] | None = None,
    weights: bool = True,
) -> Path:
    """Write a subnet: what it keeps as ``subnet.yaml``, and its weights as ``subnet.safetensors`` beside that.

    Args:
        model: A prepared model; it isn't changed.
        path: A folder, or the path of the YAML (or JSON) file; the weights get the same name with their own ending.
        choices: As :func:`lightning_channels.export_subnet` takes them; units that aren't named keep what is active.
        metrics: Numbers to be written down with it, such as its accuracy.
        weights: Whether to write the weights.

    Returns:
        The path of the YAML file, for :func:`load_subnet`. Each file is there whole, or as it was before.

    Raises:
        PrepareError: If the model has no mutator.
        ChoiceError: If a choice isn't allowed.
        ConfigError: If the path or a metric isn't one, the state dict holds something else than dense tensors, or
            safetensors isn't installed.
    """
    path = _yaml_path(path)
    mutator = _mutator_of(model)
    told = _checked_metrics(metrics or {})
    if weights:
        needed("safetensors.torch", "weights in safetensors")
    with chosen(model, choices or {}):
        resources = Resources(mutator, per_sample=True).count()
        beside = path.with_suffix(ENDING) if weights else None
        data = compose(mutator.structure(), resources, told, beside.name if beside else None)
        small = static_copy(model, throwaway=True) if weights else None
    if small is not None and beside is not None:
        write_weights(small, beside, {SUBNET: identity(data)})
    return write_file(path, data)


def load_subnet(
    factory_or_model: nn.Module | Callable[[], nn.Module],
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str] | bool | None = None,
) -> nn.Module:
    """Make the small model that :func:`save_subnet` wrote from the original class; nothing is traced.

    Args:
        factory_or_model: The supernet's class or a function that makes its plain model, or such a model, which isn't
            changed.
        path: The YAML file.
        weights: The safetensors file of the small model's weights, for instance one of
            :func:`lightning_channels.export_weights` after a fine-tuning. By default the file that the subnet names; if
            it names none, and with ``False``, the model's own weights are narrowed.

    Returns:
        A module of the original class with small tensors, in the mode and on the device of what it was made from, and
        in the dtype of the weights.

    Raises:
        StructureError: If the subnet is none, or is of another model; or if the weights are of another subnet.
        ConfigError: If a file can't be read, or the factory makes no module.
        PrepareError: If the model is prepared already.
    """
    path = Path(path)
    data = read_subnet(path)
    mutator = ChannelMutator.from_structure(structure_of(data))
    check_supernet(data)
    source = _weights_path(path, data, weights)
    with _prepared(mutator, _made(factory_or_model)) as model:
        small = export_subnet(model)
    if source is not None:
        load_weights(small, source, identity(data))
    return small


def _yaml_path(given: str | os.PathLike[str]) -> Path:
    path = Path(given)
    if path.suffix in _ENDINGS and not path.is_dir():
        return path
    if path.suffix in _OTHER or path.is_file():
        raise ConfigError(
            f"save_subnet writes a folder with {_NAME}, or a {', '.join(_ENDINGS)} file, got {os.fspath(given)!r}"
        )
    return path / _NAME


def _mutator_of(model: nn.Module) -> ChannelMutator:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"save_subnet takes a prepared model, got {type(model).__name__}")
    found = find_mutator(model)
    if found is not None:
        return found
    inside = [name for name, module in named_modules_of(model) if find_mutator(module) is not None]
    if inside:
        raise PrepareError(
            f"the prepared module of this {type(model).__name__} is {inside[0]!r}; save that one "
            f"(save_subnet(model.{inside[0]}, ...)), and load it into a module of its class"
        )
    raise PrepareError(
        f"{type(model).__name__} has no mutator, which knows the supernet; save the prepared model with its choices, "
        "not its export. The weights of an export, say after a fine-tuning, are written by export_weights"
    )


def _checked_metrics(given: Mapping[Any, Any]) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"metrics must be a dict, name → number, got {type(given).__name__}")
    found = {}
    for name, value in given.items():
        number = value.item() if getattr(value, "ndim", None) == 0 else value  # of a tensor, as metrics often are
        if not isinstance(name, str) or not is_number(number):
            raise ConfigError(f"metrics must be finite numbers by name, got {value!s:.100} for {name!r}")
        found[name] = number
    return found


def _weights_path(path: Path, data: Mapping[str, Any], given: str | os.PathLike[str] | bool | None) -> Path | None:
    if given is not None and not isinstance(given, bool):
        return Path(given)
    if given is False or (given is None and data["weights"] is None):
        return None
    if data["weights"] is None:
        raise ConfigError(f"{path} names no weights; pass their path, or weights=False for the model's own")
    beside = path.with_name(data["weights"])
    if not beside.exists():
        raise ConfigError(
            f"{path} names the weights {data['weights']}, which aren't beside it; pass their path, or weights=False "
            "for the model's own, narrowed"
        )
    return beside


def _made(given: Any) -> nn.Module:
    if isinstance(given, nn.Module):
        return given
    if not callable(given):
        raise ConfigError(f"load_subnet takes a model, its class or a function that makes it, got {given!r:.100}")
    made = given()
    if not isinstance(made, nn.Module):
        raise ConfigError(f"the factory of load_subnet must make an nn.Module, got a {type(made).__name__}")
    return made


@contextmanager
def _prepared(mutator: ChannelMutator, model: nn.Module) -> Iterator[nn.Module]:
    """Dynamic ops for a while."""
    mutator.prepare_from_supernet(model)
    try:
        yield model
    finally:
        mutator.restore()
