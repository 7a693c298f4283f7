"""What a pruning did."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_channels.pruning.rungs import NEAR
from lightning_channels.pruning.targets import readable

__all__ = ["PruneEvent", "said"]


def said(name: str, left: float, total: float) -> str:
    """What is left of a resource, in words."""
    return f"{name} {readable(left)} of {readable(total)} ({left / total:.1%})"


@dataclass(frozen=True)
class PruneEvent:
    """One change of a pruned net's widths; plain data.

    Args:
        step: The optimizer step before which it happened.
        progress: The share of the way to the target that the schedule asked for.
        before: Unit → active channels before it.
        after: Unit → active channels after it.
        reached: Resource → what is left of it.
        limits: Resource → what the target allows of it in the end.
        totals: Resource → what the whole net has.
        finished: Whether it was the last.
    """

    step: int
    progress: float
    before: dict[str, int]
    after: dict[str, int]
    reached: dict[str, float]
    limits: dict[str, float]
    totals: dict[str, float]
    finished: bool

    @property
    def changed(self) -> list[str]:
        """The units whose width changed."""
        return [name for name, number in self.after.items() if number != self.before[name]]

    def __str__(self) -> str:
        named = self.limits or {name: 0.0 for name in ("flops", "params") if name in self.reached}
        parts = [said(name, self.reached[name], self.totals[name]) for name in named]
        last = f"; {self._how_near()}" if self.finished and self.limits else ""
        return f"step {self.step}: {', '.join(parts)}; {len(self.changed)} of {len(self.after)} units changed{last}"

    def _how_near(self) -> str:
        wanted = ", ".join(f"{name} {readable(limit)}" for name, limit in self.limits.items())
        if max(self.reached[name] / limit for name, limit in self.limits.items()) >= NEAR:
            return f"target reached: {wanted}"
        return f"the nearest reachable choice below the target: {wanted}"
