"""Channels that can only change together because of a number, and what PyTorch's own attention asks of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from replay_checks import assert_replayed, mutable, reasons, traced, widths
from torch import Tensor, nn

from lightning_channels.tracing import Group, ModuleGraph
from lightning_channels.tracing.torch_attention import counted_in, torch_attentions


def sides(group: Group) -> set[tuple[str, str]]:
    return {(run.side.module, run.side.key) for run in group.runs}


def together(graph: ModuleGraph, *names: str) -> Group:
    """The one group that all these modules' outputs are in."""
    wanted = {(name, "out_features") for name in names}
    (group,) = (group for group in mutable(graph) if wanted <= sides(group))
    return group


class Borrowing(nn.Module):
    """``a`` and ``b`` have no channel in common, but one is shaped by the other's size."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(5, 24 if way == "multiple" else 6)
        self.mid, self.out = nn.Linear(6, 2), nn.Linear(24 if way == "multiple" else 6, 2)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).relu(), self.b(x).sigmoid()
        n, c = a.shape
        if self.way == "whole":
            b = b.view(n, c)
        elif self.way == "like":
            b = b.view_as(a)
        elif self.way == "heads":
            b = b.view(n, 2, c // 2).flip(0).flatten(1)
        elif self.way == "places":
            b = b.view(n, c // 2, 2).flip(0).flatten(1)
        elif self.way == "multiple":
            b = b.view(n, 4, c).cumsum(1).flatten(1)
        elif self.way == "itself":
            b = b.view(b.shape).view(n, -1)
        return self.mid(a) + self.out(b)


@pytest.mark.parametrize(
    ("way", "expected"),
    [("none", [6, 6]), ("itself", [6, 6]), ("whole", [6]), ("like", [6]), ("heads", [3]), ("places", [3])],
)
@pytest.mark.parametrize("batch", [2, 3])
def test_what_is_shaped_by_a_size_goes_with_it(way: str, expected: list[int], batch: int) -> None:
    """As many places within each of two heads, or as many pairs; a batch of 2 has nothing to do with it."""
    graph, inputs = traced(Borrowing(way), torch.rand(batch, 5))
    assert [group.num_channels for group in mutable(graph)] == expected, reasons(graph)
    if len(expected) == 1:
        together(graph, "a", "b")
    assert_replayed(graph, *inputs, python=way != "itself")


def test_a_size_that_stands_for_one_of_two_dims() -> None:
    graph, inputs = traced(Borrowing("multiple"), torch.rand(3, 5))
    joint = together(graph, "a", "b")
    rows = [row for run in joint.runs if run.side.module == "b" for row in range(run.start, run.end)]
    assert (joint.num_channels, sorted(rows)) == (6, list(range(24)))
    assert_replayed(graph, *inputs, python=True)


class Cut(nn.Module):
    """A stream whose pieces are cut off by the size of another layer's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(5, 8)
        self.mid, self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        left, right = self.b(x).sigmoid().split(a.shape[1], 1)
        return self.mid(a) + self.left(left) + self.right(right)


def test_pieces_of_a_size_go_with_it() -> None:
    graph, inputs = traced(Cut(), torch.rand(3, 5))
    assert together(graph, "a", "b").num_channels == 4
    assert_replayed(graph, *inputs, python=True)


class Ordered(nn.Module):
    """Four heads of two are shaped by the size of a stream whose channels go in other pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(5, 8)
        self.mid, self.out, self.bias = nn.Linear(8, 2), nn.Linear(8, 2), nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        n, c = a.shape
        a = (a.view(n, 2, -1) * self.bias).flatten(1)  # channels k and k + 4 go together
        b = (b.view(n, -1, 2).amax(-1, keepdim=True) + b.view(n, -1, 2)).reshape(n, c)
        return self.mid(a) + self.out(b)


def test_neighbours_are_paired_with_neighbours() -> None:
    """Pairs with pairs, though a place is in another pair here than there; place by place they would go by fours."""
    graph, _ = traced(Ordered(), torch.rand(3, 5))
    assert together(graph, "a", "b").num_channels == 4, reasons(graph)


class Attends(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attn(q, k, v, need_weights=False)[0]


QKV = (torch.rand(2, 3, 8), torch.rand(2, 4, 8), torch.rand(2, 4, 8))


@pytest.mark.parametrize("bias", [True, False])
def test_labels_of_packed_attention(bias: bool) -> None:
    graph, _ = traced(Attends(bias=bias), *QKV)
    (attention,) = torch_attentions(graph.model, graph.walk)
    assert (attention.module, attention.heads) == ("attn", 2)
    assert [len(part) for part in (*attention.inputs, *attention.outputs)] == [8] * 6
    q, k, v = attention.outputs
    assert len(torch.cat([q, k, v]).unique()) == 24
    assert all(torch.equal(part, attention.inputs[0]) for part in attention.inputs)


def test_labels_of_attention_with_weights_apart() -> None:
    inputs = (QKV[0], torch.rand(2, 4, 6), torch.rand(2, 4, 5))
    graph, _ = traced(Attends(kdim=6, vdim=5), *inputs)
    (attention,) = torch_attentions(graph.model, graph.walk)
    assert [len(part) for part in attention.inputs] == [8, 6, 5]
    assert [len(part) for part in attention.outputs] == [8, 8, 8]
    counted = {key: labels for _, key, labels in counted_in(graph.model, graph.walk)}
    assert {key: tuple(labels.shape) for key, labels in counted.items()} == {
        "embed_dim": (8, 1), "kdim": (6, 1), "vdim": (5, 1), "num_heads": (2, 4), "head_dim": (4, 2),
    }  # fmt: skip
    assert torch.equal(counted["num_heads"].flatten(), attention.outputs[0])
    assert torch.equal(counted["head_dim"].t().flatten(), attention.outputs[0])


def test_a_weight_of_another_module_says_nothing() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Attends(), Attends()
            self.two.attn.in_proj_weight = self.one.attn.in_proj_weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(*(self.one(x, x, x),) * 3)

    graph, _ = traced(Twins(), QKV[0])
    assert [attention.module for attention in torch_attentions(graph.model, graph.walk)] == ["one.attn"]


def test_attention_at_the_top() -> None:
    graph, _ = traced(nn.MultiheadAttention(8, 2), *QKV[:1] * 3)
    assert [attention.module for attention in torch_attentions(graph.model, graph.walk)] == [""]


class Stream(nn.Module):
    """A stream with one attention, of any number of heads."""

    def __init__(self, heads: int, dim: int = 8, **options: Any) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, dim), nn.Linear(dim, 3)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.attn(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize(("heads", "expected"), [(1, 8), (2, 2), (4, 4), (8, 8)])
def test_heads_go_with_their_share_of_the_stream(heads: int, expected: int) -> None:
    graph, inputs = traced(Stream(heads), torch.rand(2, 4, 5))
    (joint,) = mutable(graph)
    assert widths([joint]) == [(expected, 1)], reasons(graph)
    keys = {run.side.key for run in joint.attributes if run.side.module == "attn"}
    assert keys >= {"embed_dim", "kdim", "vdim", "head_dim" if heads == 1 else "num_heads"}
    assert ("head_dim" in keys) == (heads == 1)
    assert_replayed(graph, *inputs)
