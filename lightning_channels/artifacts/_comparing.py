"""Whether what was written computes what the model does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_channels.errors import ExportError

__all__ = ["check_same"]

_TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def check_same(given: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    """Compare outputs.

    Args:
        given: Of what was written.
        expected: Of the model.
        what: Where the first ones are from, for messages.

    Raises:
        ExportError: If there are more or fewer, if a shape differs, or if the largest difference is more than 1e-4 of
            the largest value (1e-2 in half precision, 5e-2 in bfloat16).
    """
    shapes, right = ([list(tensor.shape) for tensor in own] for own in (given, expected))
    if shapes != right:
        raise ExportError(f"{what} returns the shapes {shapes}, and the model {right}")
    for number, (own, other) in enumerate(zip(given, expected, strict=True)):
        difference = _difference(own.detach().cpu(), other.detach().cpu())
        allowed = _TOLERANCES.get(other.dtype, 0.0)
        if not difference <= allowed:
            raise ExportError(
                f"output {number} of {what} differs from the model's by {difference:.1e} of its largest value, and at "
                f"most {allowed:.0e} is allowed. Nothing was written; verify=False writes it all the same"
            )


def _difference(own: Tensor, other: Tensor) -> float:
    """Relative to the largest value; equal infinities and NaN are no difference."""
    if own.numel() == 0:
        return 0.0
    own, other = own.double(), other.double()
    same = (own == other) | (own.isnan() & other.isnan())
    differences = torch.where(same, 0.0, (own - other).abs())
    finite = torch.where(other.isfinite(), other.abs(), 0.0)
    return float(differences.max() / finite.max().clamp_min(1e-30))
