"""What the backward tracer can and can't follow, and what a mutator makes of that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from backward_checks import Middle, assert_same_units
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from zoo import Toy

from lightning_channels import (
    BackwardTracer,
    ChannelMutator,
    SequentialMutableChannelUnit,
    TraceError,
    build,
)
from lightning_channels.tracing.costs import macs

SEEDS = {"type": "BackwardTracer", "loss_calculator": {"type": "ImageClassifierPseudoLoss"}}


def why_not(model: nn.Module, inputs: Any = None) -> dict[str, str]:
    """Unit name → why it can't change."""
    graph = BackwardTracer().trace(model, torch.randn(2, 8) if inputs is None else inputs)
    return {unit.name: unit.why_not() for unit in SequentialMutableChannelUnit.init_from_graph(graph)}


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


class Mean(Doubling):
    """Called as an operator is, and none."""


def written(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :4] = 0
    return x


@pytest.mark.parametrize(
    ("middle", "op", "reason"),
    [
        (Doubling.apply, "DoublingBackward", "has a backward of its own"),
        (Mean.apply, "MeanBackward", "has a backward of its own"),
        (
            lambda x: checkpoint(torch.relu, x, use_reentrant=True),
            "CheckpointFunctionBackward",
            "a backward of its own",
        ),
        (written, "CopySlices", "written into a part of a tensor"),
        (lambda x: x + x // 2, "NotImplemented", "autograd's graph doesn't tell"),
    ],
    ids=["function", "function with an operator's name", "reentrant checkpoint", "write", "no derivative"],
)
def test_what_the_graph_does_not_tell_is_pinned_and_reported(
    middle: Callable[[Tensor], Tensor], op: str, reason: str
) -> None:
    model = Middle(middle)
    graph = BackwardTracer().trace(model, torch.randn(2, 8))
    assert [name for name, _ in graph.unruled] == [op]
    found = why_not(model)
    assert reason in found["a_(0, 16)_16"]
    assert re.search(r"backward\w*\.py:\d+\)", found["a_(0, 16)_16"])
    assert found["b_(0, 6)_6"] == ""
    mutator = ChannelMutator(parse_cfg=SEEDS)
    mutator.prepare_from_supernet(model, torch.randn(2, 8))
    assert [unit.name for unit in mutator.mutable_units] == ["b_(0, 6)_6"]
    assert op in str(mutator.report())


def test_a_checkpoint_that_is_not_reentrant_is_followed() -> None:
    assert_same_units(Middle(lambda x: checkpoint(torch.relu, x, use_reentrant=False)), torch.randn(2, 8))


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: x + 3,
        lambda x: x * torch.ones(16),
        lambda x: torch.cat([x, torch.zeros(2, 16)], 1)[:, :16],
        lambda x: torch.stack([torch.zeros(len(x), 16), x]).sum(0),
        lambda x: torch.where(x > 0, x, torch.zeros(16)),
        lambda x: x @ torch.eye(16),
        lambda x: (torch.eye(16) @ x.t()).t(),
        lambda x: torch.addmm(torch.zeros(16), x, torch.eye(16)),
        lambda x: x.masked_fill(x < 0, 0.0),
        lambda x: torch.lerp(x, torch.ones(1, 16), 0.5),
        lambda x: (x[:, None] * torch.ones(3, 16)).mean(1),
    ],
    ids=["number", "mul", "cat", "stack", "where", "mm", "mm from the left", "addmm", "fill", "lerp", "more dims"],
)
def test_operands_without_a_gradient(middle: Callable[[Tensor], Tensor]) -> None:
    assert_same_units(Middle(middle), torch.randn(2, 8))


class Reading(Middle):
    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__(middle)
        self.register_buffer("order", torch.arange(16).flip(0))


@pytest.mark.parametrize(
    "middle",
    [
        lambda model, x: x[:, model.order],
        lambda model, x: x[:, torch.arange(15, -1, -1)],
        lambda model, x: x[:, (model.order + 1) % 16],
        lambda model, x: x.index_select(1, torch.arange(16).flip(0)),
        lambda model, x: x[:, x.argsort()[0]],
        lambda model, x: x[:, x.detach().abs().sum(0).argsort().flip(0)],
        lambda model, x: x.gather(1, x.argsort(1)),
        lambda model, x: x.gather(1, x.topk(16).indices),
    ],
    ids=[
        "buffer",
        "arange",
        "of a buffer",
        "select",
        "order",
        "order without gradient",
        "gather",
        "topk",
    ],
)
def test_places(middle: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """What is the same whatever the data are is followed; what is computed isn't."""
    model = Reading(torch.relu)
    model.middle = lambda x: middle(model, x)
    assert_same_units(model, torch.randn(2, 8))


@pytest.mark.parametrize(
    "rows",
    [lambda x: x[:, 0].argsort(), lambda x: x[:, 0] < 10, lambda x: torch.arange(len(x))[x[:, 0] < 10]],
    ids=["order", "mask", "order of a mask"],
)
def test_places_in_the_batch(rows: Callable[[Tensor], Tensor]) -> None:
    class Sorted(Middle):
        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x)[rows(x)]))

    assert_same_units(Sorted(torch.relu), torch.randn(2, 8))


def test_token_numbers_are_data() -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Parameter(torch.randn(10, 6)), nn.Linear(6, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.table[ids + 1] + self.table[torch.arange(ids.shape[1])])

    assert_same_units(Looking(), torch.randint(0, 9, (2, 4)))


def test_a_convolution_of_a_constant() -> None:
    """As position embeddings are made of sines."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.embed, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) + self.embed(torch.arange(256.0).sin().view(1, 4, 8, 8)))

    forward, backward = assert_same_units(Positions(), torch.randn(2, 3, 8, 8))
    assert [[cost.full(graph.program) for cost in macs(graph.program)] for graph in (forward, backward)] == [
        [2 * 64 * 3 * 6, 64 * 4 * 6, 2 * 64 * 6 * 2]
    ] * 2


def test_an_operand_of_unknown_size_pins() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.nn.functional.conv2d(self.a(x), torch.ones(6, 6, 1, 1)))

    found = why_not(Fixed(), torch.randn(2, 3, 8, 8))
    assert "meets a tensor of which autograd's graph doesn't tell the size" in found["a_(0, 6)_6"]


def test_a_model_without_gradients_is_refused() -> None:
    class Frozen(Middle):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    with pytest.raises(TraceError, match=r"SumPseudoLoss makes of what Frozen returns has no gradient.*ForwardTracer"):
        BackwardTracer().trace(Frozen(torch.relu), torch.randn(2, 8))


# --- in a mutator ---------------------------------------------------------------------------------------------------


class Gated(nn.Module):
    """Which channels are open is no matter of gradients: two layers go together, and autograd doesn't know."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gate, self.b, self.c = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x) * (self.gate(x) > 0)))


def test_units_that_the_run_disagrees_with_are_refused() -> None:
    model = Gated()
    assert why_not(model)["a_(0, 16)_16"] == ""
    mutator = ChannelMutator(parse_cfg=SEEDS)
    mutator.prepare_from_supernet(model, torch.randn(2, 8))
    found = {unit.name: unit.why_not() for unit in mutator.units}
    assert "join its channels with others or part them" in found["a_(0, 16)_16"]
    assert found["b_(0, 6)_6"] == ""
    assert type(model.a) is nn.Linear


def test_a_mutator_proves_what_the_tracer_finds(tmp_path: Any) -> None:
    inputs = torch.randn(2, 3, 8, 8)
    mutators = [ChannelMutator(parse_cfg=cfg) for cfg in (SEEDS, {"type": "ForwardTracer"})]
    for mutator in mutators:
        torch.manual_seed(0)
        mutator.prepare_from_supernet(Toy(), inputs)
    backward, forward = mutators
    assert [(u.name, u.channels, u.why_not()) for u in backward.units] == [
        (u.name, u.channels, u.why_not()) for u in forward.units
    ]
    assert backward.macs == forward.macs
    assert backward.proof_record.mode == "default"
    assert backward.proof_record.exact_compared
    template = backward.config_template(with_unit_init_args=True)
    assert template["parse_cfg"] == SEEDS
    again = build(json.loads(json.dumps(template)))
    again.prepare_from_supernet(Toy(), inputs)
    assert again.config_template(with_unit_init_args=True) == template
