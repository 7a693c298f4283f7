"""Weights in safetensors: tensors by name, and nothing that could be run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels._files import replacing
from lightning_channels.artifacts._model import file_path, plain_model
from lightning_channels.artifacts._packages import needed
from lightning_channels.errors import ConfigError, StructureError, did_you_mean
from lightning_channels.units.choosing import Choice

__all__ = ["ENDING", "SUBNET", "export_weights", "load_weights", "write_weights"]

ENDING = ".safetensors"
SUBNET = "subnet"
"""Key of a file's metadata that says which subnet its weights are of."""

_NEED = "weights in safetensors"
_FLOATING = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_OTHERS = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "C64": torch.complex64,
}
_DTYPES = {**_FLOATING, **_OTHERS}
"""Names of safetensors; the floating ones may be exchanged for each other, since a model can be had in each."""

_SHOWN = 8


def export_weights(model: nn.Module, path: str | os.PathLike[str], choices: Mapping[str, Choice] | None = None) -> Path:
    """Write the state dict of the small model as safetensors; what can be read without this package, and runs nothing.

    Args:
        model: A prepared model, at its current choices by default, or an exported one.
        path: A ``.safetensors`` file.
        choices: Of a prepared model, as :func:`lightning_channels.export_subnet` takes them.

    Returns:
        The path. Tied tensors are there once, as ``safetensors.torch.save_model`` writes them.

    Raises:
        ConfigError: If the path has another ending, the state dict holds something else than dense tensors, or
            safetensors isn't installed.
        PrepareError: If there are choices for a model that isn't prepared.
        ChoiceError: If a choice isn't allowed.
    """
    path = file_path(path, ENDING, "export_weights")
    needed("safetensors.torch", _NEED)
    return write_weights(plain_model(model, choices, "export_weights", throwaway=True), path, {})


def write_weights(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> Path:
    """Write the state dict of a plain model.

    Raises:
        ConfigError: If it holds something else than dense tensors, or safetensors isn't installed.
    """
    tensors, tied = _apart(model.state_dict())
    save = needed("safetensors.torch", _NEED).save_file
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as other files get it; safetensors writes one that its owner alone can read
        save(tensors, temporary, metadata={"format": "pt", **metadata, **tied})
        temporary.chmod(mode)
    return path


def _apart(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Contiguous tensors with a memory of their own, and name → name of the same tensor for those that are tied."""
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[Any, str] = {}
    memory: set[int] = set()
    for name, value in state.items():
        tensor = _dense(name, value)
        key = _identity(tensor)
        if key in first:
            tied[name] = first[key]
            continue
        first[key] = name
        whole = tensor.detach().cpu().contiguous()
        storage = whole.untyped_storage()
        if storage.data_ptr() in memory or storage.nbytes() != whole.numel() * whole.itemsize:
            whole = whole.clone()
        memory.add(whole.untyped_storage().data_ptr())
        tensors[name] = whole
    return tensors, tied


def _dense(name: str, value: Any) -> Tensor:
    """A tensor that the format can hold."""
    if not isinstance(value, Tensor):
        raise ConfigError(
            f"the state dict has {name!r}, a {type(value).__name__}; safetensors holds tensors alone. Save the module "
            "with torch.save, or leave that out of its get_extra_state"
        )
    kind = "meta" if value.is_meta else "sparse" if value.layout != torch.strided else None
    if kind is None and value.dtype not in _DTYPES.values():
        kind = str(value.dtype).removeprefix("torch.")
    if kind is None and type(value) not in (Tensor, nn.Parameter):
        kind = type(value).__name__
    if kind is not None:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES.values())
        raise ConfigError(f"{name!r} is a {kind} tensor; weights are written dense, in one of {allowed}")
    return value


def _identity(tensor: Tensor) -> Any:
    """The same for two names of one tensor."""
    if tensor.numel() == 0:
        return id(tensor)
    place = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
    return place, tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride()


# --- reading ----------------------------------------------------------------------------------------------------------


def load_weights(model: nn.Module, path: str | os.PathLike[str], subnet: str | None = None) -> None:
    """Load the weights of a file into a plain model of these widths; what is floating gets the file's dtype.

    Args:
        model: Has exactly the file's tensors. It is only changed once all of them fit.
        path: A safetensors file.
        subnet: Which subnet the weights must be of, where the file says.

    Raises:
        ConfigError: If the file can't be read, or safetensors isn't installed.
        StructureError: If the file isn't whole, or a tensor is missing, unknown, or of another shape or kind.
    """
    path = Path(path)
    file = _opened(path)
    with file:
        metadata = file.metadata() or {}
        if subnet is not None and metadata.get(SUBNET, subnet) != subnet:
            raise StructureError(f"{path} holds the weights of another subnet; take the file that was written with it")
        dtypes = _checked(model, path, file)
        tensors = {name: file.get_tensor(name) for name in dtypes}
    _convert(model, dtypes)
    state = model.state_dict()  # its metadata has the versions of modules' layouts, which some ask for
    for names in _groups(model):
        (source,) = (name for name in names if name in dtypes)
        state.update(dict.fromkeys(names, tensors[source]))
    model.load_state_dict(state)


def _opened(path: Path) -> Any:
    safetensors = needed("safetensors", _NEED)
    if not path.is_file():
        what = "it is no regular file" if path.exists() else "there is no such file"
        raise ConfigError(f"cannot read {path}: {what}")
    try:
        return safetensors.safe_open(path, framework="pt", device="cpu")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise StructureError(f"{path} is no whole safetensors file: {error}") from error


def _checked(model: nn.Module, path: Path, file: Any) -> dict[str, torch.dtype]:
    """Compare a file with a model; the dtypes of the file's tensors."""
    state = {name: _dense(name, value) for name, value in model.state_dict().items()}
    here = file.keys()
    unknown = [name for name in here if name not in state]
    problems = [f"{name!r} is in the file but not in the model{did_you_mean(name, state)}" for name in unknown[:_SHOWN]]
    dtypes: dict[str, torch.dtype] = {}
    for names in _groups(model):
        given = [name for name in names if name in here]
        if len(given) != 1:
            several = f"{' and '.join(map(repr, given))} are one tensor in the model and two in the file"
            problems.append(several if given else f"{names[0]!r} is in the model but not in the file")
            continue
        (name,) = given
        part = file.get_slice(name)
        shape, kind, tensor = list(part.get_shape()), part.get_dtype(), state[name]
        if shape != list(tensor.shape):
            problems.append(f"{name!r} has the shape {shape} in the file and {list(tensor.shape)} in the model")
        elif not _fits(kind, tensor.dtype):
            is_ = str(tensor.dtype).removeprefix("torch.")
            problems.append(f"{name!r} is {kind} in the file and {is_} in the model")
        else:
            dtypes[name] = _DTYPES[kind]
    if problems:
        more = " and others" if len(problems) > _SHOWN else ""
        raise StructureError(
            f"the weights of {path} don't fit the model: {'; '.join(problems[:_SHOWN])}{more}. Take the file that was "
            "written for this subnet, with the model that it was made from"
        )
    return dtypes


def _fits(kind: str, dtype: torch.dtype) -> bool:
    return _DTYPES.get(kind) == dtype or (kind in _FLOATING and dtype in _FLOATING.values())


def _groups(model: nn.Module) -> Iterable[list[str]]:
    """The names of the state dict; those of one tensor together."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in model.state_dict().items():
        groups.setdefault(_identity(tensor), []).append(name)
    return groups.values()


def _convert(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give a model the dtypes of what is loaded: as a whole where all floating tensors have the same."""
    state = model.state_dict(keep_vars=True)
    floating = {dtype for dtype in dtypes.values() if dtype in _FLOATING.values()}
    if all(state[name].dtype == dtype for name, dtype in dtypes.items()):
        return
    if len(floating) == 1:
        model.to(floating.pop())
        return
    for name, dtype in dtypes.items():
        state[name].data = state[name].data.to(dtype)
