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

__all__ = ["FOLLOWED", "Borrowed", "SizeWatch"]


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
    """A size that knows whose it is: like any other integer, but for that.

    Code may keep it, in a cache of its own say, so it holds nothing of the tensor, the watch or the model.

    Attributes:
        watch: Of the watch that gave it out; others take it for any integer.
        number: Of the source in that watch's list.
        part: Whether it was divided.
    """

    watch: object
    number: int
    part: bool

    @classmethod
    def of(cls, value: int, watch: object, number: int, part: bool = False) -> _Size:
        size = cls(value)
        size.watch, size.number, size.part = watch, number, part
        return size

    def __floordiv__(self, other: Any) -> Any:
        quotient = int(self) // other
        return _Size.of(quotient, self.watch, self.number, True) if isinstance(quotient, int) else quotient

    def __reduce__(self) -> Any:
        """Copied and stored it is any integer: what is stored has to load without this package."""
        return int, (int(self),)


_SHAPE, _SIZE = Tensor.shape.__get__, Tensor.size  # type: ignore[attr-defined]
_RESHAPES = {Tensor.view, Tensor.reshape, torch.reshape, Tensor.expand}
_LIKE = {Tensor.view_as, Tensor.reshape_as}
_UNFLATTENS = {Tensor.unflatten, torch.unflatten}
_SPLITS = {Tensor.split, torch.split}
_WATCHED = _RESHAPES | _UNFLATTENS | _SPLITS
FOLLOWED = frozenset({_SHAPE, _SIZE} | _WATCHED | _LIKE)
"""What a :class:`SizeWatch` looks at; it passes on all else."""


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
        self._mark = object()
        self._sources: list[tuple[Hashable, int]] = []
        self.found: list[tuple[Any, int, Any, int, bool]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **kwargs) if kwargs else func(*args)
        if func not in FOLLOWED:
            return result
        if func == _SHAPE or func is _SIZE:
            return self._sized(args, kwargs or {}, result)
        if func in _WATCHED:
            operand, *arguments = _in_order(*args, *kwargs.values()) if kwargs else args
            for size, target, dim in _given(func, arguments, operand, result, self._mark):
                self._shaped(target, dim, self._sources[size.number], size.part)
        elif func in _LIKE:
            other = (*args, *(kwargs or {}).values())[1]
            key = self._key(other)
            for dim, size in enumerate(result.shape if key is not None else ()):
                if size > 1:
                    self._shaped(result, dim, (key, dim), False)
        return result

    def _shaped(self, target: Tensor, dim: int, source: tuple[Any, int], part: bool) -> None:
        key = self._key(target)
        if key is not None:
            self.found.append((key, dim, *source, part))

    def _sized(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        key = self._key(args[0])
        if key is None:
            return result
        if isinstance(result, torch.Size):
            return torch.Size([self._of(n, key, dim) if n > 1 else n for dim, n in enumerate(result)])
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        rank = args[0].dim()
        return self._of(result, key, dim % rank) if isinstance(dim, int) and result > 1 else result

    def _of(self, value: int, key: Hashable, dim: int) -> _Size:
        self._sources.append((key, dim))
        return _Size.of(value, self._mark, len(self._sources) - 1)


def _in_order(*values: Any) -> list[Any]:
    """An operator's arguments, some of them by name: the tensor, a dim, and then a list of sizes."""
    return sorted(values, key=lambda value: 0 if isinstance(value, Tensor) else 1 + isinstance(value, (list, tuple)))


def _given(func: Any, arguments: Any, operand: Any, result: Any, watch: object) -> Iterator[tuple[_Size, Tensor, int]]:
    """A watch's sizes among an operator's arguments, each with the tensor and the dim that it became the size of."""
    flat: list[Any] = []
    for argument in arguments:
        flat += argument if isinstance(argument, (list, tuple)) else [argument]
    sizes = [(place, size) for place, size in enumerate(flat) if isinstance(size, _Size) and size.watch is watch]
    if not sizes:
        return
    if func in _SPLITS:
        for piece in result:
            for dim in range(piece.dim()):
                for _, size in sizes:
                    if piece.shape[dim] == size != operand.shape[dim]:
                        yield size, piece, dim
        return
    # the first argument of unflatten is the dim, and the sizes stand from there
    first = flat[0] % operand.dim() - 1 if func in _UNFLATTENS and isinstance(flat[0], int) else 0
    for place, size in sizes:
        if 0 <= first + place < result.dim():
            yield size, result, first + place
