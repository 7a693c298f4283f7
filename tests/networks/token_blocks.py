"""Blocks over (B, N, C)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from networks.building import ACTIVATIONS, Built, Lambda, block, build_chain, chains, take, widths
from torch import Tensor, nn

__all__: list[str] = []

activations = st.sampled_from(sorted(ACTIVATIONS))
norms = st.sampled_from(["layer", "rms", "none"])


def norm(name: str, channels: int) -> nn.Module:
    return {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "none": lambda n: nn.Identity()}[name](channels)


@block("tokens", widths(), st.booleans(), norms, activations)
def linear(channels: int, out: int, bias: bool, kind: str, act: str) -> Built:
    made = nn.Sequential(nn.Linear(channels, out, bias), norm(kind, out), Lambda(ACTIVATIONS[act]))
    return Built(made, out, outer=("0",))


class Added(nn.Module):
    def __init__(self, norm: nn.Module, body: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.norm, self.body, self.back = norm, body, back

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(self.body(self.norm(x)))


@block("tokens", lambda depth: chains("tokens", depth, least=1, most=2), norms)
def prenorm(channels: int, specs: Any, kind: str) -> Built:
    body = build_chain("tokens", channels, specs)
    made = Added(norm(kind, channels), body.module, nn.Linear(body.channels, channels))
    whole = Built(made, channels, outer=("back",))
    take(whole, body, "body")
    return whole


class MLP(nn.Module):
    def __init__(self, channels: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.up, self.down = nn.Linear(channels, hidden * (2 if kind == "chunk" else 1)), nn.Linear(hidden, channels)
        if kind == "two":
            self.gate = nn.Linear(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        if self.kind == "two":
            y = F.silu(y) * self.gate(x)
        elif self.kind == "chunk":
            a, b = y.chunk(2, -1)
            y = a * F.gelu(b)
        return x + self.down(F.gelu(y))


@block("tokens", widths(), st.sampled_from(["plain", "two", "chunk"]))
def mlp(channels: int, hidden: int, kind: str) -> Built:
    return Built(MLP(channels, hidden, kind), channels, inner=("up",))


class Token(nn.Module):
    """A token in front, which is added to the others at the end."""

    def __init__(self, channels: int, body: nn.Module) -> None:
        super().__init__()
        self.token, self.body = nn.Parameter(torch.rand(1, 1, channels)), body

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))
        return x[:, 1:] + x[:, :1]


@block("tokens", widths())
def token(channels: int, hidden: int) -> Built:
    body = MLP(channels, hidden, "plain")
    return Built(Token(channels, body), channels, inner=("body.up",))


class Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(channels) + 0.5), nn.Parameter(torch.rand(1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, x, self.gamma)


@block("tokens")
def scale(channels: int) -> Built:
    return Built(Scale(channels), channels)


class Shared(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.enter, self.layer = nn.Linear(channels, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.layer(F.gelu(self.layer(x))) + x


@block("tokens", widths())
def shared(channels: int, width: int) -> Built:
    return Built(Shared(channels, width), width, outer=("layer",))


class Recurrent(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rnn, self.enter = nn.GRU(4, 5, batch_first=True), nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.enter(x))[0]


@block("tokens")
def recurrent(channels: int) -> Built:
    return Built(Recurrent(channels), 5, pins=True)
