"""Blocks over (B, C, H, W): convolutions, and what joins and divides their channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from networks.building import ACTIVATIONS, Built, Chain, Lambda, block, build_chain, chains, take, widths
from torch import Tensor, nn

__all__ = ["norm", "norms"]

NORMS = ("none", "batch", "group", "instance", "layer")
activations, norms = st.sampled_from(sorted(ACTIVATIONS)), st.sampled_from(NORMS)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias).permute(0, 3, 1, 2)


def norm(name: str, channels: int) -> tuple[nn.Module, int]:
    """A norm, and how often it ties channels."""
    if name == "group":
        groups = next(g for g in (3, 2, 1) if g == 1 or (channels % g == 0 and channels // g > 1))
        return nn.GroupNorm(groups, channels), int(groups > 1)
    made = {
        "none": nn.Identity,
        "batch": lambda: nn.BatchNorm2d(channels),
        "instance": lambda: nn.InstanceNorm2d(channels, affine=True),
        "layer": lambda: ChannelNorm(channels),
    }
    return made[name](), 0


class ConvNorm(nn.Module):
    def __init__(self, conv: nn.Module, norm: nn.Module, act: str) -> None:
        super().__init__()
        self.conv, self.norm, self.act = conv, norm, Lambda(ACTIVATIONS[act])

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


@block("maps", widths(), st.sampled_from([1, 3]), st.booleans(), norms, activations)
def conv(channels: int, out: int, size: int, bias: bool, kind: str, act: str) -> Built:
    layer, ties = norm(kind, out)
    made = ConvNorm(nn.Conv2d(channels, out, size, padding=size // 2, bias=bias), layer, act)
    return Built(made, out, outer=("conv",), ties=ties)


@block("maps", st.sampled_from([2, 3, 4]), st.integers(1, 3), norms, activations)
def grouped(channels: int, groups: int, each: int, kind: str, act: str) -> Built:
    """A convolution of ``groups`` groups, with at least two channels in each."""
    inputs, out = groups * 3, groups * (each + 1)
    layer, ties = norm(kind, out)
    made = nn.Sequential(
        nn.Conv2d(channels, inputs, 1), ConvNorm(nn.Conv2d(inputs, out, 3, 1, 1, groups=groups), layer, act)
    )
    return Built(made, out, inner=("0",), outer=("1.conv",), ties=1 + ties)


@block("maps", st.integers(1, 2), norms, activations)
def depthwise(channels: int, times: int, kind: str, act: str) -> Built:
    layer, ties = norm(kind, channels * times)
    made = ConvNorm(nn.Conv2d(channels, channels * times, 3, 1, 1, groups=channels), layer, act)
    return Built(made, channels * times, ties=ties + times - 1)


@block("maps", widths(), st.sampled_from([1, 2, 3]))
def transposed(channels: int, out: int, groups: int) -> Built:
    """Twice as large, and back."""
    inputs, out = channels if groups == 1 else 2 * groups, out * groups
    first = nn.Identity() if groups == 1 else nn.Conv2d(channels, inputs, 1)
    made = nn.Sequential(first, nn.ConvTranspose2d(inputs, out, 2, 2, groups=groups), nn.AvgPool2d(2))
    return Built(made, out, inner=() if groups == 1 else ("0",), outer=("1",) if out > groups else (), ties=groups - 1)


class Residual(nn.Module):
    def __init__(self, body: nn.Module, back: nn.Module, inplace: bool) -> None:
        super().__init__()
        self.body, self.back, self.inplace = body, back, inplace

    def forward(self, x: Tensor) -> Tensor:
        y = self.back(self.body(x))
        if self.inplace:
            y += x
            return y
        return x + y


@block("maps", lambda depth: chains("maps", depth, least=1, most=2), st.booleans())
def residual(channels: int, specs: Any, inplace: bool) -> Built:
    body = build_chain("maps", channels, specs)
    whole = Built(Residual(body.module, nn.Conv2d(body.channels, channels, 1), inplace), channels, outer=("back",))
    take(whole, body, "body")
    return whole


class Concatenate(nn.Module):
    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


@block("maps", lambda depth: st.lists(chains("maps", depth, most=2), min_size=1, max_size=2), st.booleans())
def concatenate(channels: int, branches: Any, dense: bool) -> Built:
    """Branches beside each other; ``dense`` puts what they read before them."""
    parts = [build_chain("maps", channels, specs) for specs in branches]
    own = [Chain([])] if dense else []
    whole = Built(Concatenate([*own, *(part.module for part in parts)]), sum(part.channels for part in parts))
    whole.channels += channels * dense
    for number, part in enumerate(parts):
        take(whole, part, f"branches.{number + dense}")
    return whole


class Sum(Concatenate):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self.branches], 1).sum(1)


@block("maps", lambda depth: st.lists(chains("maps", depth, most=2), min_size=2, max_size=3), widths())
def branches(channels: int, specs: Any, out: int) -> Built:
    """Branches that are stacked and added."""
    parts = [build_chain("maps", channels, spec) for spec in specs]
    whole = Built(Sum([nn.Sequential(p.module, nn.Conv2d(p.channels, out, 1)) for p in parts]), out, outer=())
    for number, part in enumerate(parts):
        take(whole, part, f"branches.{number}.0")
        whole.outer += (f"branches.{number}.1",)
    return whole


class Gate(nn.Module):
    def __init__(self, conv: nn.Module, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = conv, kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.kind == "glu":
            return F.glu(x, 1)
        if self.kind == "maxout":
            return x.view(x.shape[0], 2, -1, *x.shape[2:]).amax(1)
        a, b = x.chunk(2, 1)
        return a * b.sigmoid() if self.kind == "chunk" else torch.cat([b, a.tanh()], 1)


@block("maps", widths(), st.sampled_from(["glu", "chunk", "swap", "maxout"]))
def gate(channels: int, out: int, kind: str) -> Built:
    """One half of the channels weighs the other, or they change places."""
    made = Gate(nn.Conv2d(channels, 2 * out, 1), kind)
    return Built(made, 2 * out if kind == "swap" else out, outer=("conv",), ties=1)


class Split(nn.Module):
    """Cuts channels apart by attributes; the first part is convolved, and the last one comes first."""

    def __init__(self, channels: int, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.enter = nn.Conv2d(channels, sum(sizes), 1)
        self.own = nn.Conv2d(sizes[0], sizes[0], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = torch.split(self.enter(x), self.sizes, 1)
        return torch.cat([*reversed(others), self.own(first)], 1)


@block("maps", st.lists(st.integers(2, 6), min_size=2, max_size=3, unique=True))
def split(channels: int, sizes: list[int]) -> Built:
    return Built(Split(channels, sizes), sum(sizes), outer=("own", "enter"))


class Shuffle(nn.Module):
    def __init__(self, conv: nn.Module, groups: int, by_hand: bool) -> None:
        super().__init__()
        self.conv, self.groups, self.by_hand = conv, groups, by_hand

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if not self.by_hand:
            return F.channel_shuffle(x, self.groups)
        b, c, h, w = x.shape
        return x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)


@block("maps", st.sampled_from([2, 3]), st.integers(2, 4), st.booleans())
def shuffle(channels: int, groups: int, each: int, by_hand: bool) -> Built:
    if each == groups:
        each += 1  # an attribute with the value of another number that counts channels is a case of its own
    return Built(
        Shuffle(nn.Conv2d(channels, groups * each, 1), groups, by_hand), groups * each, outer=("conv",), ties=1
    )


class Squeeze(nn.Module):
    def __init__(self, channels: int, hidden: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        layer = nn.Linear if linear else lambda a, b: nn.Conv2d(a, b, 1)
        self.down, self.up = layer(channels, hidden), layer(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.linear:
            b, c = x.shape[:2]
            return x * self.up(F.gelu(self.down(x.mean((2, 3))))).sigmoid().view(b, c, 1, 1)
        return x * self.up(F.gelu(self.down(F.adaptive_avg_pool2d(x, 1)))).sigmoid().expand_as(x)


@block("maps", widths(), st.booleans())
def squeeze(channels: int, hidden: int, linear: bool) -> Built:
    return Built(Squeeze(channels, hidden, linear), channels, inner=("down",))


@block("maps", widths())
def upsample(channels: int, out: int) -> Built:
    made = nn.Sequential(nn.Conv2d(channels, 4 * out, 1), nn.PixelShuffle(2), nn.AvgPool2d(2))
    return Built(made, out, outer=("0",), ties=1)


class Scale(nn.Module):
    def __init__(self, shape: tuple[int, ...], inplace: bool) -> None:
        super().__init__()
        self.gamma, self.inplace = nn.Parameter(torch.rand(shape) + 0.5), inplace

    def forward(self, x: Tensor) -> Tensor:
        return (x * 1.5).mul_(self.gamma).add_(0.25) if self.inplace else x * self.gamma


@block("maps", st.booleans())
def scale(channels: int, inplace: bool) -> Built:
    return Built(Scale((channels, 1, 1), inplace), channels)


class Shared(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.enter, self.conv = nn.Conv2d(channels, width, 1), nn.Conv2d(width, width, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for norm in self.norms:
            x = F.silu(norm(self.conv(x)))
        return x


@block("maps", widths())
def shared(channels: int, width: int) -> Built:
    """One convolution twice, each time with a norm of its own."""
    return Built(Shared(channels, width), width, outer=("conv",))


class OnTokens(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return self.body(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(b, -1, h, w)


@block("maps", lambda depth: chains("tokens", depth, least=1, most=2))
def on_tokens(channels: int, specs: Any) -> Built:
    body = build_chain("tokens", channels, specs)
    whole = Built(OnTokens(body.module), body.channels)
    take(whole, body, "body")
    return whole
