"""Complex numbers and Fourier transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_channels.tracing.program import Op
from lightning_channels.tracing.rules.table import named, rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__: list[str] = []


@rule("view_as_complex", "view_as_complex_copy")
def _view_as_complex(walk: Walk, op: Op) -> None:
    """The last dim, of size 2, becomes one number: its two halves stay or go together."""
    maps = []
    for labels in walk.get(op.args[0]):
        walk.labels.unite(labels, labels[..., :1])
        maps.append(labels[..., 0])
    if any(m.numel() == 1 for m in maps):
        walk.pin_inputs(op, "is the real or imaginary part of a complex number")
    walk.set_all(op, maps)


@rule("view_as_real", "view_as_real_copy")
def _view_as_real(walk: Walk, op: Op) -> None:
    walk.set_all(op, [m.unsqueeze(-1) for m in walk.get(op.args[0])])


@rule("_conj", "_conj_physical", "_neg_view", "resolve_conj", "resolve_neg", "real", "imag", "_conj_copy")
def _same(walk: Walk, op: Op) -> None:
    walk.set_all(op, walk.get(op.args[0]))


@rule("complex", "polar")
def _combine(walk: Walk, op: Op) -> None:
    walk.pointwise(op)


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def _fourier(walk: Walk, op: Op) -> None:
    """The transformed dims are mixed; labels along the others pass."""
    source = op.args[0]
    walk.set_all(op, walk.pin_along(op, source, named(op, "dim"), "lies along a dimension that is transformed"))
