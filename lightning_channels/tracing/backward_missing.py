"""Operands that autograd knows nothing of: what was made in ``forward`` from nothing that has a gradient.

A node doesn't say what they were. For elements that meet that needn't be known; for other operators a tensor of the
right shape stands in, where the shape follows from the other operands' and the result's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lightning_channels.tracing.backward_ops import Signature
from lightning_channels.tracing.program import Op, Ref
from lightning_channels.tracing.rules.pointwise import pointwise, pointwise_by_tag
from lightning_channels.tracing.rules.table import rule_for

__all__ = ["Missing", "UnsizedError"]

_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")


class UnsizedError(Exception):
    """An operand has no history, and its shape follows from nothing."""


class Missing:
    """Fills in what is missing.

    Args:
        shapes: Shape of each reference.
        unknown: Makes a reference for a tensor of which only the shape is known.
    """

    def __init__(self, shapes: Mapping[int, torch.Size], unknown: Callable[[Sequence[int]], Ref]) -> None:
        self._shapes = shapes
        self._unknown = unknown

    def fill(self, signature: Signature, found: dict[str, Any], out: torch.Size) -> None:
        """Put something in the place of the operands of one operator that autograd knows nothing of.

        Args:
            signature: The operator.
            found: Its arguments; those that are missing are filled in.
            out: Shape of its first result.

        Raises:
            UnsizedError: If the operator's rule would have to know a shape that follows from nothing.
        """
        optional = {a.name for a in signature.func._schema.arguments if str(a.type).startswith("Optional")}
        missing = [name for name in signature.edges if found[name] is None and name not in optional]
        listed = signature.list_of_edges
        base = signature.func._schema.name.removeprefix("aten::")
        if listed is not None and None in found[listed]:
            found[listed] = self._pieces(base, found[listed], found.get("dim", 0), out)
        if not missing:
            return
        stand_in = Op(signature.func, (), {}, (Ref(-1),), "")
        if rule_for(stand_in) in (pointwise, pointwise_by_tag):
            known = [self._shapes[found[name].id] for name in signature.edges if isinstance(found[name], Ref)]
            rest = _rest(known, out)
            if rest is not None:
                found[missing[0]] = self._unknown(rest)
        elif base == "convolution" and missing == ["input"] and not found["transposed"]:
            channels = self._shapes[found["weight"].id][1] * found["groups"]
            found["input"] = self._unknown((out[0], channels, *[1] * (len(out) - 2)))
        elif base in _PRODUCTS:
            for name in missing:
                found[name] = self._unknown(self._factor(found, name, out))
        else:
            raise UnsizedError

    def _pieces(self, base: str, pieces: list[Ref | None], dim: int, whole: torch.Size) -> list[Ref]:
        if base == "stack":
            shape = list(whole)
            del shape[dim % len(whole)]
            return [piece or self._unknown(shape) for piece in pieces]
        if base != "cat" or pieces.count(None) > 1:
            raise UnsizedError
        dim %= len(whole)
        covered = sum(self._shapes[piece.id][dim] for piece in pieces if piece is not None)
        return [piece or self._unknown((*whole[:dim], whole[dim] - covered, *whole[dim + 1 :])) for piece in pieces]

    def _factor(self, found: Mapping[str, Any], name: str, out: torch.Size) -> Sequence[int]:
        """Shape of one factor of a product, or of what is added to it."""
        left, right = [key for key in ("self", "mat1", "mat2", "batch1", "batch2") if key in found][-2:]
        if name not in (left, right):
            return out
        other = found[right if name == left else left]
        if other is None:
            raise UnsizedError
        shape = self._shapes[other.id]
        return (*out[:-1], shape[-2]) if name == left else (*out[:-2], shape[-1], out[-1])


def _rest(known: Sequence[torch.Size], out: torch.Size) -> list[int] | None:
    """Shape of the operand that makes the others' common shape what the result has; ``None`` if they have it."""
    common = torch.broadcast_shapes(*known) if known else torch.Size(())
    if common == out:
        return None
    padded = (*[1] * (len(out) - len(common)), *common)
    return [n if m == 1 else 1 for n, m in zip(out, padded, strict=True)]
