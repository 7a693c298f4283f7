"""What two tracers say of one model, and a model for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightning_channels import BackwardTracer, ForwardTracer, ModuleGraph, SequentialMutableChannelUnit
from lightning_channels.tracing.running import ExampleInputs

__all__ = ["Middle", "assert_same_units", "facts"]


class Middle(nn.Module):
    """Two linear layers with something between them, and a third that is none of its business."""

    def __init__(self, middle: Callable[[Tensor], Tensor], hidden: int = 16) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, hidden), nn.Linear(hidden, 6), nn.Linear(6, 4)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.middle(self.a(x))))


def facts(graph: ModuleGraph) -> dict[str, dict[str, Any]]:
    """Unit name → all that a choice of its width depends on."""
    units = SequentialMutableChannelUnit.init_from_graph(graph)
    return {
        unit.name: {
            "channels": unit.channels,
            "attributes": set(unit.attributes),
            "groups": unit.groups,
            "exact": unit.exact,
            "reduced": unit.reduced,
            "mutable": unit.is_mutable,
        }
        for unit in units
    }


def assert_same_units(model: nn.Module, inputs: ExampleInputs) -> tuple[ModuleGraph, ModuleGraph]:
    """The graph that each tracer makes; all units of both are the same, and some can change."""
    forward, backward = ForwardTracer().trace(model, inputs), BackwardTracer().trace(model, inputs)
    expected, found = facts(forward), facts(backward)
    assert list(found) == list(expected)
    for name, own in expected.items():
        assert found[name] == own, name
    assert any(own["mutable"] for own in found.values())
    assert (backward.training is None) == (forward.training is None)
    return forward, backward
