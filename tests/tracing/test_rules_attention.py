"""Attention: which heads and channels can go, whether exactly, and what the replay computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from replay_checks import assert_replayed, mutable, reasons, traced, widths
from torch import Tensor, nn

WIDTH, HEADS = 12, 3


class Attention(nn.Module):
    """Attention in the way of timm: one projection for all three, whose heads are counted by the code."""

    def __init__(self, attend: Callable[..., Tensor], heads: int = HEADS, norm: bool = False) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(5, 8), nn.Linear(8, 2)
        self.qkv, self.proj = nn.Linear(8, 3 * WIDTH), nn.Linear(WIDTH, 8)
        self.norm = nn.LayerNorm(WIDTH // heads) if norm else nn.Identity()
        self.bias = nn.Parameter(torch.rand(heads, 4, 4))
        self.attend, self.heads = attend, heads

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = self.attend(self.norm(q), self.norm(k), v, self)
        return self.outside(x + self.proj(y.transpose(1, 2).reshape(batch, length, -1)))


def plain(q: Tensor, k: Tensor, v: Tensor, net: Any) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def causal(q: Tensor, k: Tensor, v: Tensor, net: Any) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)


def biased(q: Tensor, k: Tensor, v: Tensor, net: Any) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=net.bias)


def by_hand(q: Tensor, k: Tensor, v: Tensor, net: Any) -> Tensor:
    return ((q @ k.transpose(-1, -2) * 0.5 + net.bias).softmax(-1) @ v).contiguous()


def kernel(name: str) -> Callable[..., Tensor]:
    """One of the fused kernels, called by name."""
    return lambda q, k, v, net: getattr(torch.ops.aten, name)(q, k, v)[0]


@pytest.mark.parametrize(
    ("attend", "bias"),
    [
        (plain, False),
        (causal, False),
        (biased, True),
        (by_hand, True),
        (kernel("_scaled_dot_product_attention_math"), False),
        (kernel("_scaled_dot_product_flash_attention_for_cpu"), False),
    ],
    ids=["plain", "causal", "bias", "by hand", "math", "flash"],
)
def test_whole_heads_go_exactly(attend: Callable[..., Tensor], bias: bool) -> None:
    graph, inputs = traced(Attention(attend), torch.rand(2, 4, 5))
    stream, heads = mutable(graph)
    assert widths([stream, heads]) == [(8, 1), (HEADS, 1)], reasons(graph)
    assert stream.inexact is None
    assert heads.inexact is None
    sides = {(run.side.module, run.side.key, run.expand_ratio) for run in heads.runs}
    expected = {("qkv", "out_features", 4), ("proj", "in_features", 4)}
    assert sides == (expected | {("", "bias[0]", 1)} if bias else expected)
    assert_replayed(graph, *inputs)


def test_channels_of_a_single_head_are_not_exact() -> None:
    graph, inputs = traced(Attention(plain, heads=1), torch.rand(2, 4, 5))
    stream, head = mutable(graph)
    assert widths([stream, head]) == [(8, 1), (WIDTH, 1)]  # one reshape of all three ties them
    assert head.inexact == "a product of two activations runs over the channels"
    assert_replayed(graph, *inputs, python=True)


class Separate(nn.Module):
    """A projection for each of queries, keys and values, of a single head."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        (self.q, self.k, self.v), self.proj = (nn.Linear(5, 12) for _ in range(3)), nn.Linear(12, 3)
        self.attend = attend

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.attend(self.q(x), self.k(x), self.v(x)))


def test_channels_of_values_are_exact() -> None:
    graph, inputs = traced(Separate(F.scaled_dot_product_attention), torch.rand(2, 1, 4, 5))
    keys, values = mutable(graph)
    assert widths([keys, values]) == [(12, 1), (12, 1)]
    assert keys.inexact == "a product of two activations runs over the channels"
    assert values.inexact is None  # they are read by the projection alone
    assert_replayed(graph, *inputs, python=True)


def test_a_norm_over_whole_heads_is_exact() -> None:
    """Its parameters are shared by all heads, so they stay; a head that goes takes its statistics with it."""
    graph, inputs = traced(Attention(plain, norm=True), torch.rand(2, 4, 5))
    stream, heads = mutable(graph)
    assert widths([stream, heads]) == [(8, 1), (HEADS, 1)], reasons(graph)
    assert stream.inexact is None
    assert heads.inexact is None
    assert_replayed(graph, *inputs)


class Grouped(nn.Module):
    """Several heads of queries share a head of keys and values."""

    def __init__(self, native: bool) -> None:
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(5, 24), nn.Linear(5, 16), nn.Linear(24, 3)
        self.native = native

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (-1, 4)).transpose(1, 2)
        k, v = (y.unflatten(-1, (-1, 4)).transpose(1, 2) for y in self.kv(x).chunk(2, -1))
        if self.native:
            y = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]
        else:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.proj(y.transpose(1, 2).flatten(2))


def test_grouped_queries_go_with_their_keys() -> None:
    graph, inputs = traced(Grouped(False), torch.rand(2, 4, 5))
    (heads,) = mutable(graph)
    assert (heads.num_channels, heads.inexact) == (2, None)
    assert {(run.side.module, run.end - run.start, run.expand_ratio) for run in heads.runs} == {
        ("q", 24, 12), ("kv", 8, 4), ("proj", 24, 12),
    }  # fmt: skip
    assert_replayed(graph, *inputs)


@pytest.mark.parametrize(
    "name",
    [
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
    ],
)
def test_kernels_of_other_devices(name: str) -> None:
    """They can't run here; their rule can, on what the processor's kernel recorded."""
    from lightning_channels.tracing.solver import solve
    from lightning_channels.tracing.walk import walk

    graph, _ = traced(Attention(plain), torch.rand(2, 4, 5))
    program = graph.program
    (number,) = (k for k, op in enumerate(program.ops) if op.name.startswith("_scaled_dot_product"))
    op = program.ops[number]
    func = getattr(torch.ops.aten, name).default
    given = {"attn_bias": None, "compute_log_sumexp": False}
    names = [argument.name for argument in func._schema.arguments[3:]]
    extra = [given[argument] for argument in names if argument in given and argument != "scale"]
    others = (None,) * (len(func._schema.returns) - 2)
    program.ops[number] = type(op)(func, (*op.args[:3], *extra), {}, (*op.outputs, *others), op.module)
    expected, found = graph.solution, solve(walk(program).labels)
    assert torch.equal(expected.root[: len(found.root)], found.root[: len(expected.root)])


def test_fused_layers_are_pinned() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.qkv, self.proj = nn.Linear(5, 8), nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return torch._native_multi_head_attention(
                x, x, x, 8, 2, self.qkv.weight, self.qkv.bias, self.proj.weight, self.proj.bias
            )[0]

    graph, _ = traced(Layer(), torch.rand(2, 4, 5))
    assert mutable(graph) == []
    assert graph.unruled == []
    assert any("reaches a fused attention layer" in why for why in reasons(graph))


class Linear(nn.Module):
    """Linear attention as EfficientViT has it: a column of ones beside the values sums up the keys."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = nn.Linear(5, 3 * WIDTH), nn.Linear(WIDTH, 3), heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        v = F.pad(v, (0, 1), value=1.0)
        y = q.relu() @ (k.relu().transpose(-1, -2) @ v)
        y = y[..., :-1] / (y[..., -1:] + 1.0)
        return self.proj(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("heads", [1, 3])
def test_a_padded_column_of_ones(heads: int) -> None:
    """The column reads the keys' channels, so dropping some of these is not exact."""
    graph, inputs = traced(Linear(heads), torch.rand(2, 4, 5))
    for group in mutable(graph):
        sides = {(run.side.module, run.start // WIDTH) for run in group.runs if run.side.module == "qkv"}
        if group.num_channels == WIDTH and sides & {("qkv", 0), ("qkv", 1)}:
            assert group.inexact is not None
    assert_replayed(graph, *inputs)


def test_channel_attention() -> None:
    """As XCiT has it: the scores are between channels, and the softmax runs over the keys'."""

    def across(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((v.mT @ k).softmax(-1) @ q.mT).mT

    graph, inputs = traced(Separate(across), torch.rand(2, 4, 5))
    keys, values = mutable(graph)
    assert widths([keys, values]) == [(12, 1), (12, 1)]
    assert keys.inexact == "softmax runs over the channels"
    assert values.inexact is None  # each is a row of scores of its own
    assert_replayed(graph, *inputs, python=True)
