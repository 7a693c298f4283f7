"""Sizes that code reads off one tensor to shape another: ``b, n, c = x.shape; ...; y.reshape(b, n, c)``.

No labels meet there, and yet the two can only be as wide as each other. So while a model is recorded the sizes that it
reads are integers that know where they come from, and reshaping operators tell where they went.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Borrowed", "SizeWatch"]


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A tensor got the size of one of its dims from another tensor.

    Attributes:
        target: Number of the tensor that was shaped.
        dim: Its dim.
        source: Number of the tensor whose size was read.
        source_dim: Its dim.
        part: Whether the size was divided (``c // heads``).
    """

    target: int
    dim: int
    source: int
    source_dim: int
    part: bool


class _Size(int):
    """A size that knows whose it is: like any other integer, but for that."""

    source: tuple[Hashable, int]
    part: bool

    @classmethod
    def of(cls, value: int, source: tuple[Hashable, int], part: bool = False) -> _Size:
        size = cls(value)
        size.source, size.part = source, part
        return size

    def __floordiv__(self, other: Any) -> Any:
        quotient = int(self) // other
        return _Size.of(quotient, self.source, True) if isinstance(quotient, int) else quotient


_SHAPE, _SIZE = Tensor.shape.__get__, Tensor.size  # type: ignore[attr-defined]
_RESHAPES = {Tensor.view, Tensor.reshape, torch.reshape, Tensor.expand}
_UNFLATTENS = {Tensor.unflatten, torch.unflatten}
_SPLITS = {Tensor.split, torch.split}
_WATCHED = _RESHAPES | _UNFLATTENS | _SPLITS


class SizeWatch(TorchFunctionMode):
    """Function mode that follows sizes.

    Args:
        key: Tells a tensor from others; ``None`` for one of no interest.

    Attributes:
        found: (key, dim) of a shaped tensor, (key, dim) of the one whose size it got, and whether that was divided.
    """

    def __init__(self, key: Callable[[Tensor], Hashable | None]) -> None:
        super().__init__()
        self._key = key
        self.found: list[tuple[Any, int, Any, int, bool]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **kwargs) if kwargs else func(*args)
        if func == _SHAPE or func is _SIZE:
            return self._sized(args, kwargs or {}, result)
        if func in _WATCHED:
            arguments = [*args[1:], *kwargs.values()] if kwargs else args[1:]
            for size, target, dim in _given(func, arguments, args[0] if args else None, result):
                key = self._key(target)
                if key is not None:
                    self.found.append((key, dim, *size.source, size.part))
        return result

    def _sized(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        key = self._key(args[0])
        if key is None:
            return result
        if isinstance(result, torch.Size):
            return torch.Size([_Size.of(n, (key, dim)) if n > 1 else n for dim, n in enumerate(result)])
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        rank = args[0].dim()
        return _Size.of(result, (key, dim % rank)) if isinstance(dim, int) and result > 1 else result


def _given(func: Any, arguments: Any, operand: Any, result: Any) -> Iterator[tuple[_Size, Tensor, int]]:
    """The borrowed sizes among an operator's arguments, each with the tensor and the dim that it became the size of."""
    flat: list[Any] = []
    for argument in arguments:
        flat += argument if isinstance(argument, (list, tuple)) else [argument]
    if not any(isinstance(size, _Size) for size in flat):
        return
    if func in _RESHAPES:
        for dim, size in enumerate(flat):
            if isinstance(size, _Size) and dim < result.dim():
                yield size, result, dim
    elif func in _UNFLATTENS and isinstance(flat[0], int):
        first = flat[0] % operand.dim()
        for dim, size in enumerate(flat[1:], first):
            if isinstance(size, _Size) and dim < result.dim():
                yield size, result, dim
    elif func in _SPLITS:
        for piece in result:
            for dim in range(piece.dim()):
                for size in flat:
                    if isinstance(size, _Size) and piece.shape[dim] == size != operand.shape[dim]:
                        yield size, piece, dim
