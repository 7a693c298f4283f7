"""What is left of what, in one line for each resource."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ResourcesLeft"]

_TWICE = "flops"
"""Twice the macs: the same share, so that it isn't printed."""


@dataclass(frozen=True, slots=True)
class ResourcesLeft:
    """What a choice of widths costs beside what the full model does. Prints a line for each.

    Attributes:
        now: Name → cost of the choice.
        full: Name → cost at full width.
    """

    now: dict[str, float]
    full: dict[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Name → how much is left, from 0 to 1; of what costs nothing at full width all is left."""
        return {name: value / self.full[name] if self.full[name] else 1.0 for name, value in self.now.items()}

    def __str__(self) -> str:
        shares = self.shares
        return "\n".join(
            f"{name}: {_exact(value)} of {_exact(self.full[name])} ({shares[name]:.1%})"
            for name, value in self.now.items()
            if name != _TWICE
        )


def _exact(value: float) -> str:
    """Counts to the last digit, milliseconds in thousandths."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
