"""When two tensors are the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["Tolerance", "relative_error"]

# outputs must agree to the first; inside the model, where a small difference may be rounding that is scaled up and
# down again, to the second: what is computed from other channels differs by about one
_TOLERANCES = {
    torch.float64: (1e-10, 1e-6),
    torch.float32: (1e-4, 1e-2),
    torch.float16: (1e-2, 1e-1),
    torch.bfloat16: (5e-2, 2e-1),
}
_NOTHING = 1e-12
"""A tensor without a larger value than this is as good as zero."""


class Tolerance:
    """How exact results are, with the precision that a model calculates in.

    Args:
        tensors: The coarsest of their types decides.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        known = [_TOLERANCES[dtype] for dtype in {tensor.dtype for tensor in tensors} if dtype in _TOLERANCES]
        self.outputs, self.inside = max(known, default=_TOLERANCES[torch.float32])

    def difference(self, outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> str | None:
        """How the tensors that a model returns differ from what they should be, in words; ``None`` if they don't."""
        if len(outputs) != len(expected):
            return f"returns {len(outputs)} tensors instead of {len(expected)}"
        for out, want in zip(outputs, expected, strict=True):
            if out.shape != want.shape:
                return f"returns a tensor of shape {list(out.shape)} instead of {list(want.shape)}"
            error = relative_error(out, want)
            if not error <= self.outputs:
                return f"computes something else, off by {error:.1e} of the largest value"
        return None

    def departs(self, value: Tensor, expected: Tensor) -> bool:
        """Whether a tensor inside the model is another one than expected."""
        return value.shape != expected.shape or not relative_error(value, expected) <= self.inside


def relative_error(value: Tensor, expected: Tensor) -> float:
    """The largest difference between tensors of one shape, in units of the largest expected value."""
    if not value.numel() or not (value.is_floating_point() or value.is_complex()):
        return 0.0
    if value.dtype in (torch.float16, torch.bfloat16):
        value, expected = value.float(), expected.float()
    difference, scale = float((value - expected).abs().max()), float(expected.abs().max())
    if difference == difference and scale != float("inf"):
        return difference / max(scale, _NOTHING)
    # infinities and NaN are right where they are expected; the rest is measured without them
    odd = ~expected.isfinite()
    same = (value == expected) | (value.isnan() & expected.isnan())
    if not bool(same[odd].all()):
        return float("inf")
    rest = expected[~odd]
    return float((value[~odd] - rest).abs().max()) / max(float(rest.abs().max()), _NOTHING) if rest.numel() else 0.0
