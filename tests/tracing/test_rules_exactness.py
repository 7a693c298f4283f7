"""Which units are exact: what runs over the channels, and what only seems to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from replay_checks import assert_replayed, mutable, reasons, traced, widths
from torch import Tensor, nn


class Heads(nn.Module):
    """Something that runs over the 4 channels of each of 3 heads, between two linear layers."""

    def __init__(self, middle: Callable[[Tensor], Tensor], tied: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 12), nn.Linear(12, 2)
        self.gate = nn.Linear(5, 3)
        self.middle, self.tied = middle, tied

    def forward(self, x: Tensor) -> Tensor:
        heads = self.a(x).unflatten(-1, (-1, 4))
        if self.tied:  # a gate for each head: whole heads go
            heads = heads * self.gate(x).unsqueeze(-1)
        return self.b(self.middle(heads).flatten(-2))


OVER = [
    lambda x: F.layer_norm(x, x.shape[-1:]),
    lambda x: x.softmax(-1),
    lambda x: x - x.mean(-1, keepdim=True),
    lambda x: F.normalize(x, dim=-1),
    lambda x: x.cumsum(-1),
    lambda x: F.rms_norm(x, x.shape[-1:]),
]


@pytest.mark.parametrize("middle", OVER, ids=["norm", "softmax", "mean", "normalize", "cumsum", "rms"])
def test_what_runs_over_whole_heads_is_exact(middle: Callable[[Tensor], Tensor]) -> None:
    graph, inputs = traced(Heads(middle, tied=True), torch.rand(2, 3, 5))
    (heads,) = mutable(graph)
    assert (heads.num_channels, heads.inexact) == (3, None), reasons(graph)
    assert {(run.side.module, run.expand_ratio) for run in heads.runs} == {("a", 4), ("gate", 1), ("b", 4)}
    assert_replayed(graph, *inputs)


@pytest.mark.parametrize("middle", [OVER[0], OVER[1], OVER[4]], ids=["norm", "softmax", "cumsum"])
def test_what_runs_over_some_of_the_channels_is_not(middle: Callable[[Tensor], Tensor]) -> None:
    graph, inputs = traced(Heads(middle, tied=False), torch.rand(2, 3, 5))
    (channels,) = mutable(graph)
    assert widths([channels]) == [(12, 3)]  # the larger dim keeps its freedom, alike in all heads
    assert channels.inexact is not None
    assert_replayed(graph, *inputs)


def test_a_mean_of_each_head_ties_its_channels() -> None:
    """It has a value a head, which meets all channels of that head: these stay or go together."""
    graph, inputs = traced(Heads(OVER[2], tied=False), torch.rand(2, 3, 5))
    (heads,) = mutable(graph)
    assert (heads.num_channels, heads.inexact) == (3, None)
    assert_replayed(graph, *inputs)


class Norms(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 12, 1), norm, nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)))


@pytest.mark.parametrize(
    ("norm", "expected", "inexact"),
    [
        (nn.BatchNorm2d(12), (12, 1), None),
        (nn.GroupNorm(3, 12), (12, 3), "group norm runs over the channels"),
        (nn.GroupNorm(6, 12), (12, 6), "group norm runs over the channels"),
        (nn.GroupNorm(1, 12), (12, 1), "group norm runs over the channels"),
        (nn.GroupNorm(12, 12), (12, 1), None),
        (nn.InstanceNorm2d(12, affine=True), (12, 1), None),
        (nn.LocalResponseNorm(3), (12, 1), None),
    ],
    ids=["batch", "groups", "many groups", "one group", "a group a channel", "instance", "local response"],
)
def test_norms(norm: nn.Module, expected: tuple[int, int], inexact: str | None) -> None:
    graph, inputs = traced(Norms(norm), torch.rand(2, 3, 4, 4))
    if isinstance(norm, nn.LocalResponseNorm):  # a pool over neighbouring channels
        assert mutable(graph) == []
        assert any("lies along a spatial dimension" in why for why in reasons(graph))
        return
    (group,) = mutable(graph)
    assert widths([group]) == [expected]
    assert group.inexact == inexact
    assert_replayed(graph, *inputs)


class Attending(nn.Module):
    """ECA: a kernel that runs over the pooled channels."""

    def __init__(self, stride: int = 1, padding: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 2, 1)
        self.eca = nn.Conv1d(1, 1, kernel, stride, padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        gate = self.eca(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
        return self.b(x * gate.repeat_interleave(x.shape[1] // gate.shape[1], 1)[:, :, None, None])


def test_a_kernel_over_the_channels() -> None:
    graph, inputs = traced(Attending(), torch.rand(2, 3, 4, 4))
    (group,) = mutable(graph)
    assert (group.num_channels, group.inexact) == (12, "a kernel runs over the channels")
    assert_replayed(graph, *inputs, python=True)


def test_a_kernel_of_size_one_over_the_channels_is_exact() -> None:
    graph, inputs = traced(Attending(padding=0, kernel=1), torch.rand(2, 3, 4, 4))
    (group,) = mutable(graph)
    assert (group.num_channels, group.inexact) == (12, None)
    assert_replayed(graph, *inputs, python=True)


def test_a_kernel_over_the_channels_with_a_stride_is_pinned() -> None:
    graph, _ = traced(Attending(stride=2), torch.rand(2, 3, 4, 4))
    assert mutable(graph) == []
    assert any("lies along a spatial dimension (convolution in eca" in why for why in reasons(graph))


class Computed(nn.Module):
    """A convolution whose weight is computed from its parameters."""

    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 12, 1), nn.Conv2d(8, 2, 1)
        self.weight, self.compute = nn.Parameter(torch.rand(8, 12, 3, 3)), compute

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.conv2d(self.a(x), self.compute(self.weight)))


@pytest.mark.parametrize(
    ("compute", "inexact"),
    [
        (lambda w: w * 2.0, None),
        (lambda w: w.flip(2), None),
        (lambda w: w - w.mean((1, 2, 3), keepdim=True), "mean runs over the channels"),
        (lambda w: w.exp(), "the weight that reads the channels is computed"),
        (lambda w: F.batch_norm(w.flatten(1).unsqueeze(0), None, None, training=True).view_as(w),
         "batch statistics run over it"),
    ],
    ids=["scaled", "flipped", "centred", "exponential", "standardised"],
)  # fmt: skip
def test_computed_weights(compute: Callable[[Tensor], Tensor], inexact: str | None) -> None:
    graph, inputs = traced(Computed(compute), torch.rand(2, 3, 4, 4))
    read, made = mutable(graph)
    assert widths([read, made]) == [(12, 1), (8, 1)]
    assert read.inexact == inexact
    assert made.inexact is None
    assert_replayed(graph, *inputs, python=True)


def test_weights_that_are_activations() -> None:
    class Dynamic(nn.Module):
        """A linear layer whose weight comes from another input."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.make, self.b = nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(8, 2)

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return self.b(F.linear(self.a(x), self.make(y)))

    graph, inputs = traced(Dynamic(), torch.rand(2, 5), torch.rand(8, 5))
    (group,) = mutable(graph)
    assert (group.num_channels, group.inexact) == (12, "a product of two activations runs over the channels")
    assert_replayed(graph, *inputs, python=True)


def test_weight_norm() -> None:
    model = nn.Sequential(nn.Conv1d(3, 12, 3), nn.utils.parametrizations.weight_norm(nn.Conv1d(12, 8, 3)), nn.ReLU(),
                          nn.Conv1d(8, 2, 1))  # fmt: skip
    graph, inputs = traced(model, torch.rand(2, 3, 9))
    assert graph.unruled == []
    assert any(name.startswith("_weight_norm") for name in {op.name for op in graph.program.ops})
    assert_replayed(graph, *inputs)
