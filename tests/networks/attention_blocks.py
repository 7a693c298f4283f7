"""Blocks over (B, N, C) in which places read each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from networks.building import Built, block, widths
from torch import Tensor, nn

__all__: list[str] = []


class Attention(nn.Module):
    """Attention of several heads, in many ways of writing it."""

    def __init__(self, channels: int, heads: int, size: int, joint: bool, product: str, sizes: str) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, size
        self.joint, self.product, self.sizes = joint, product, sizes
        inner = heads * size
        if joint:
            self.qkv = nn.Linear(channels, 3 * inner)
        else:
            self.q, self.k, self.v = (nn.Linear(channels, inner) for _ in range(3))
        self.proj = nn.Linear(inner, channels)

    def _heads(self, x: Tensor) -> Tensor:
        if self.sizes == "number":
            return x.unflatten(-1, (2, -1))
        if self.sizes == "heads":
            return x.reshape(*x.shape[:-1], self.num_heads, -1)
        if self.sizes == "dim":
            return x.reshape(*x.shape[:-1], -1, self.head_dim)
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).chunk(3, -1) if self.joint else (self.q(x), self.k(x), self.v(x))
        q, k, v = (self._heads(part).transpose(1, 2) for part in parts)
        if self.product == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.product == "einsum":
            y = torch.einsum("bhnm,bhmd->bhnd", torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1), v)
        else:
            y = ((q @ k.transpose(-2, -1)) * self.head_dim**-0.5).softmax(-1) @ v
        return x + self.proj(y.transpose(1, 2).flatten(2))


@block(
    "tokens",
    st.sampled_from([2, 4]),
    st.sampled_from([3, 5]),
    st.booleans(),
    st.sampled_from(["sdpa", "einsum", "matmul"]),
    st.sampled_from(["both", "heads", "dim", "number"]),
)
def attention(channels: int, heads: int, size: int, joint: bool, product: str, sizes: str) -> Built:
    heads = 2 if sizes == "number" else heads
    known = () if sizes == "number" else ("qkv",) if joint else ("q", "k", "v", "proj")[:3]
    return Built(Attention(channels, heads, size, joint, product, sizes), channels, inner=known)


class ByShape(nn.Module):
    """Takes the size of a head from its input's channels, which can be another than its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_heads = 2
        self.enter, self.proj = nn.Linear(channels, 6), nn.Linear(6, channels)
        self.qkv = nn.Linear(6, 18)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        b, n, c = y.shape
        q, k, v = self.qkv(y).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        return x + self.proj(y)


@block("tokens")
def by_shape(channels: int) -> Built:
    return Built(ByShape(channels), channels)


class OneHead(nn.Module):
    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(channels, size), nn.Linear(channels, size), nn.Linear(channels, size + 1)
        self.proj = nn.Linear(size + 1, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(torch.bmm(torch.bmm(self.q(x), self.k(x).transpose(1, 2)).softmax(-1), self.v(x)))


@block("tokens", widths())
def one_head(channels: int, size: int) -> Built:
    return Built(OneHead(channels, size), channels, inner=("v",))


class OverChannels(nn.Module):
    """Channels read each other, within each head."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.q, self.k, self.v = (nn.Linear(channels, heads * 3) for _ in range(3))
        self.proj = nn.Linear(heads * 3, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).reshape(b, n, self.num_heads, -1).permute(0, 2, 3, 1) for layer in (self.q, self.k, self.v))
        y = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1) @ v
        return x + self.proj(y.permute(0, 3, 1, 2).reshape(b, n, -1))


@block("tokens", st.sampled_from([2, 4]))
def over_channels(channels: int, heads: int) -> Built:
    return Built(OverChannels(channels, heads), channels, inner=("q", "k", "v"))


class Shares(nn.Module):
    """Several heads of queries read one of keys and values."""

    def __init__(self, channels: int, heads: int, times: int, size: int, expand: bool) -> None:
        super().__init__()
        self.kv_heads, self.times, self.size, self.expand = heads, times, size, expand
        self.q = nn.Linear(channels, heads * times * size)
        self.kv, self.proj = nn.Linear(channels, 2 * heads * size), nn.Linear(heads * times * size, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, -1, self.size).transpose(1, 2)
        k, v = (part.reshape(b, n, self.kv_heads, self.size).transpose(1, 2) for part in self.kv(x).chunk(2, -1))
        if self.expand:
            k, v = (y[:, :, None].expand(-1, -1, self.times, -1, -1).flatten(1, 2) for y in (k, v))
        else:
            k, v = k.repeat_interleave(self.times, 1), v.repeat_interleave(self.times, 1)
        return x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


@block("tokens", st.sampled_from([3, 4]), st.just(2), st.just(5), st.booleans())
def shares(channels: int, heads: int, times: int, size: int, expand: bool) -> Built:
    return Built(Shares(channels, heads, times, size, expand), channels, inner=("q", "kv"))


class Latents(nn.Module):
    """Reads a few tokens that are parameters, with channels of their own."""

    def __init__(self, channels: int, own: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 2, 3
        self.latents = nn.Parameter(torch.rand(4, own))
        self.q, self.kv, self.proj = nn.Linear(channels, 6), nn.Linear(own, 12), nn.Linear(6, channels)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        k, v = (self._heads(part) for part in self.kv(self.latents.expand(x.shape[0], -1, -1)).chunk(2, -1))
        y = F.scaled_dot_product_attention(self._heads(self.q(x)), k, v)
        return x + self.proj(y.transpose(1, 2).flatten(2))


@block("tokens", st.integers(4, 9))
def latents(channels: int, own: int) -> Built:
    return Built(Latents(channels, own), channels, inner=("q", "kv"))


class TorchAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter, self.back = nn.Linear(channels, 6), nn.Linear(6, channels)
        self.layer = nn.TransformerEncoderLayer(6, 2, 9, 0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(self.layer(self.enter(x)))


@block("tokens")
def torch_layer(channels: int) -> Built:
    """Its attention may stay as it is; its hidden layer may not."""
    return Built(TorchAttention(channels), channels, inner=("layer.linear1",))
