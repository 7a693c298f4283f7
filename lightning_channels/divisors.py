"""Of what the numbers of channels should be multiples, so that a smaller net is a faster one.

Kernels compute channels in blocks. A layer of 17 channels takes as long as one of 32 where the block is 16, or leaves
the fast kernels altogether. The table says how wide the blocks are; it is a pure function of the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lightning_channels._plain import is_int
from lightning_channels.errors import ConfigError, did_you_mean

__all__ = ["AUTO", "recommended_divisor", "resolve_divisor"]

AUTO = "auto"
_RUNTIMES = ("eager", "compile", "onnxruntime")

_CPU = {"AVX512": 16, "SVE512": 16}
"""Floats in a vector, by what torch says of the CPU: oneDNN's blocks (nChw16c, nChw8c) and onnxruntime's (NCHWc)."""
_OTHER_CPU = 8
"""AVX2 has vectors of 8. Where they are shorter (NEON, SSE), kernels still compute tiles of 8."""

_CUDA = {1: 16}
"""By bytes of a number: tensor cores read 16 bytes at a time."""
_OTHER_CUDA = 8
"""For half precision; float32 takes the same, as such a model runs in half precision sooner or later."""


def recommended_divisor(
    runtime: str = "eager", device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> int:
    """Of what the numbers of channels should be multiples.

    Args:
        runtime: What will run the model: ``"eager"``, ``"compile"`` (torch.compile) or ``"onnxruntime"``.
        device: On which device: the CPU or an NVIDIA GPU. By default the GPU of this machine if it has one; for
            onnxruntime the CPU.
        dtype: In which precision; float32 by default.

    Returns:
        The divisor, the same on every machine with such a device.

    Raises:
        ConfigError: If the runtime is unknown, or if nothing is known of the device.

    Example:
        >>> recommended_divisor("eager", "cuda", torch.bfloat16)
        8
    """
    if runtime not in _RUNTIMES:
        hint = did_you_mean(runtime, _RUNTIMES) or "."
        raise ConfigError(f"unknown runtime {runtime!r}{hint} Known: {', '.join(_RUNTIMES)}")
    kind = _kind_of(device, runtime)
    if kind not in _TABLES:
        raise ConfigError(
            f"a divisor is recommended for {', '.join(_TABLES)} alone, not for {kind!r}; give a number, such as 8"
        )
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ConfigError(f"dtype must be a torch.dtype, such as torch.bfloat16, got {dtype!r}")
    return _TABLES[kind](dtype or torch.float32)


def _kind_of(device: str | torch.device | None, runtime: str) -> str:
    if device is None:
        return "cuda" if runtime != "onnxruntime" and torch.cuda.is_available() else "cpu"
    try:
        return torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(f"device must be one that torch knows, such as 'cpu' or 'cuda', got {device!r}") from error


def _of_cpu(dtype: torch.dtype) -> int:
    return _CPU.get(torch.backends.cpu.get_cpu_capability(), _OTHER_CPU)


def _of_cuda(dtype: torch.dtype) -> int:
    return _CUDA.get(dtype.itemsize, _OTHER_CUDA)


_TABLES: dict[str, Callable[[torch.dtype], int]] = {"cpu": _of_cpu, "cuda": _of_cuda}


def resolve_divisor(value: Any, what: str = "divisor") -> int:
    """The number that a divisor stands for.

    Args:
        value: A positive integer, ``"auto"`` for what is recommended on this machine, or ``"auto:onnxruntime"`` for
            another runtime than torch's own.
        what: What it is called in messages.

    Raises:
        ConfigError: If it is something else.

    Example:
        >>> resolve_divisor(8)
        8
    """
    if is_int(value) and value >= 1:
        return value
    if is_auto(value):
        return recommended_divisor(value.partition(":")[2] or "eager")
    raise ConfigError(f"{what} must be a positive integer, 'auto' or 'auto:onnxruntime', got {value!r}")


def is_auto(value: object) -> bool:
    """Whether a divisor is left to the machine."""
    return isinstance(value, str) and (value == AUTO or value.startswith(f"{AUTO}:"))
