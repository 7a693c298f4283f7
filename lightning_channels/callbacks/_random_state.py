"""The state of a process's random number generators as data that a checkpoint can hold."""

from __future__ import annotations

import random
from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np
import torch

from lightning_channels.errors import ConfigError

__all__ = ["RandomState", "check", "get", "seed_anew", "set_back"]

RandomState: TypeAlias = dict[str, Any]


def get(device: torch.device) -> RandomState:
    """The state of the global generators of Python, NumPy and torch, and of the device's: dicts, numbers, tensors."""
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    state: RandomState = {
        "python": {"version": version, "words": _tensor(np.array(words, np.uint32)), "gauss": gauss},
        "numpy": _map(numpy, np.ndarray, _tensor),
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        state[device.type] = _of_device("get_rng_state", device)
    return state


def set_back(state: RandomState, device: torch.device) -> None:
    """Go on from a state; a device of another type than the saved one goes on as it is."""
    python, numpy = _decoded(state)
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if device.type in state and device.type != "cpu":
        _of_device("set_rng_state", device, state[device.type].cpu())


def check(state: Any) -> None:
    """Try a state on generators of its own, so that nothing is changed by one that doesn't fit.

    Raises:
        ConfigError: If it isn't what :func:`get` returns.
    """
    try:
        python, numpy = _decoded(state)
        random.Random().setstate(python)
        kind = type(np.random.get_bit_generator())  # type: ignore[attr-defined]
        np.random.RandomState(kind()).set_state(numpy)  # which refuses another kind's
        torch.Generator().set_state(state["torch"].cpu())
    except Exception as error:  # whatever a file holds
        raise ConfigError(f"the random state in it can't be read: {type(error).__name__}: {error}") from error


def seed_anew(seed: int, step: int) -> None:
    """Start all generators afresh, as a function of both numbers; alike on all ranks, as ``seed_everything`` does."""
    digest = sha256(f"{seed}/{step}".encode()).digest()
    first, second = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:12], "big")
    random.seed(first)
    np.random.seed(second)  # noqa: NPY002
    torch.manual_seed(first >> 1)


def _decoded(state: RandomState) -> tuple[Any, Any]:
    python = state["python"]
    words = tuple(_array(python["words"]).tolist())
    numpy = _map(state["numpy"], torch.Tensor, _array)
    return (python["version"], words, python["gauss"]), numpy


def _tensor(array: Any) -> torch.Tensor:
    # generators count in unsigned integers, tensors of which can't be pickled
    return torch.from_numpy(array.view(f"i{array.itemsize}").copy())


def _array(tensor: torch.Tensor) -> Any:
    return tensor.cpu().numpy().view(f"u{tensor.element_size()}")


def _map(value: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _map(entry, kind, convert) for key, entry in value.items()}
    return convert(value) if isinstance(value, kind) else value


def _of_device(name: str, device: torch.device, *arguments: Any) -> Any:
    # CUDA's and XPU's take the device, MPS has only one
    where = () if device.type == "mps" else (device,)
    return getattr(torch.get_device_module(device), name)(*arguments, *where)
