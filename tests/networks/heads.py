"""Attention by what is done to queries and keys, and by the product that is used."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from networks.case import case, padded, tokens
from networks.transformers import AttributeAttention, Residual
from torch import Tensor, nn

SHARED = "read together with another dim"


# --- queries and keys ------------------------------------------------------------------------------------------------


class Turned(nn.Module):
    """Rotary positions from a table that is made once, for heads of 4."""

    def __init__(self, interleaved: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.interleaved = 2, 4, interleaved
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        angles = torch.arange(7.0)[:, None] / 100 ** (torch.arange(0, 4, 2) / 4)
        table = angles.repeat_interleave(2, -1) if interleaved else torch.cat([angles, angles], -1)
        self.register_buffer("cos", table.cos(), persistent=False)
        self.register_buffer("sin", table.sin(), persistent=False)

    def turn(self, x: Tensor) -> Tensor:
        if self.interleaved:
            half = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        else:
            a, b = x.chunk(2, -1)
            half = torch.cat([-b, a], -1)
        return x * self.cos + half * self.sin

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        return self.proj(x.transpose(1, 2).reshape(b, n, -1))


HEADS = {"embed": 8, "attn.qkv": 2, "up": 12}


@case(tokens, mutable=HEADS)
class RotaryHalves(Residual):
    def __init__(self) -> None:
        super().__init__(Turned(False))


@case(tokens, mutable=HEADS)
class RotaryInterleaved(Residual):
    def __init__(self) -> None:
        super().__init__(Turned(True))


class Normed(AttributeAttention):
    """Queries and keys are normed within each head."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__(8, 2, 4)
        self.q_norm, self.k_norm = norm(4), norm(4)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)


@case(tokens, mutable={"embed": 8, "attn.q": 2, "up": 12}, refused={"attn.q_norm": SHARED, "attn.k_norm": SHARED})
class NormedQueries(Residual):
    def __init__(self) -> None:
        super().__init__(Normed(nn.LayerNorm))


@case(tokens, mutable={"embed": 8, "attn.q": 2, "up": 12}, refused={"attn.q_norm": SHARED, "attn.k_norm": SHARED})
class RootMeanSquareQueries(Residual):
    def __init__(self) -> None:
        super().__init__(Normed(nn.RMSNorm))


class Grouped(nn.Module):
    """4 heads of queries for 2 of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = 4, 2, 3
        self.q, self.k, self.v = nn.Linear(8, 12), nn.Linear(8, 6), nn.Linear(8, 6)
        self.proj = nn.Linear(12, 8)

    def share(self, x: Tensor) -> Tensor:
        return x

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, self.share(k), self.share(v))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
        k, v = (y(x).view(b, n, self.num_kv_heads, self.head_dim).transpose(1, 2) for y in (self.k, self.v))
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(b, n, -1))


class Repeated(Grouped):
    def share(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 1)


class Expanded(Grouped):
    """As Hugging Face writes it."""

    def share(self, x: Tensor) -> Tensor:
        b, heads, n, d = x.shape
        return x[:, :, None].expand(b, heads, 2, n, d).reshape(b, heads * 2, n, d)


class Native(Grouped):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


GROUPED = {"embed": 8, "attn.q": 2, "up": 12}


@case(tokens, mutable=GROUPED)
class GroupedByRepeating(Residual):
    def __init__(self) -> None:
        super().__init__(Repeated())


@case(tokens, mutable=GROUPED)
class GroupedByExpanding(Residual):
    def __init__(self) -> None:
        super().__init__(Expanded())


@case(tokens, mutable=GROUPED)
class GroupedNatively(Residual):
    def __init__(self) -> None:
        super().__init__(Native())


# --- products --------------------------------------------------------------------------------------------------------


class Scaled(AttributeAttention):
    """The scale is an attribute, made of a head's size."""

    def __init__(self) -> None:
        super().__init__(8, 2, 4)
        self.scale = self.head_dim**-0.5

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1)).mul(self.scale).softmax(-1) @ v


@case(tokens, mutable={"embed": 8, "attn.q": 2, "up": 12})
class ScaleAsAttribute(Residual):
    def __init__(self) -> None:
        super().__init__(Scaled())


class OneHeadScaled(nn.Module):
    """One head, whose scale stays what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.scale = 6, 6**-0.5
        self.q, self.k, self.v, self.proj = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj((self.q(x) @ self.k(x).mT * self.scale).softmax(-1) @ self.v(x))


@case(tokens, mutable={"embed": 8, "attn.q": 6, "attn.v": 6, "up": 12})
class ScaleOfOneHead(Residual):
    def __init__(self) -> None:
        super().__init__(OneHeadScaled())


class WithMask(AttributeAttention):
    """A boolean mask in eval mode, one of numbers for each head and dropout in train mode."""

    def __init__(self) -> None:
        super().__init__(8, 2, 4)
        self.register_buffer("seen", torch.ones(7, 7, dtype=torch.bool).tril())
        self.bias = nn.Parameter(torch.randn(2, 7, 7))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        a = F.scaled_dot_product_attention(q, k, v, self.seen, dropout_p=0.3 if self.training else 0.0)
        return a + F.scaled_dot_product_attention(q, k, v, self.bias[None], scale=0.7)


@case(tokens, mutable={"embed": 8, "attn.q": 2, "up": 12})
class MasksAndDropout(Residual):
    def __init__(self) -> None:
        super().__init__(WithMask())


class ByEinsum(nn.Module):
    """Heads and their size as dims of bare weights, as Flax writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(8, 4, 3)) for _ in range(3))
        self.out = nn.Parameter(torch.randn(4, 3, 8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bnc,chd->bnhd", x, weight) for weight in (self.q, self.k, self.v))
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1)
        return torch.einsum("bhnm,bmhd,hdc->bnc", weights, v, self.out)


@case(tokens, mutable={"embed": 8, "attn.q[2]": 3, "up": 12}, refused={"attn.q[1]": "all together"})
class BareEinsum(Residual):
    """Two dims of the weights are multiplied as one: only one of them keeps its freedom."""

    def __init__(self) -> None:
        super().__init__(ByEinsum())


class ByBaddbmm(nn.Module):
    """Heads and batch in one dim, and a bias added within the product."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 2, 4
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.randn(7, 7))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, b * self.num_heads, n, self.head_dim)
        weights = torch.baddbmm(self.bias, q, k.transpose(1, 2), beta=0.5, alpha=0.5).softmax(-1)
        x = torch.bmm(weights, v).view(b, self.num_heads, n, self.head_dim).transpose(1, 2)
        return self.proj(x.reshape(b, n, self.num_heads * self.head_dim))


@case(tokens, mutable=HEADS)
class HeadsInTheBatch(Residual):
    def __init__(self) -> None:
        super().__init__(ByBaddbmm())


class GivenMask(AttributeAttention):
    def __init__(self) -> None:
        super().__init__(8, 2, 4)
        self.mask: Tensor | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert self.mask is not None
        b, n = self.mask.shape
        mask = self.mask[:, None, None, :].expand(b, self.num_heads, n, n)
        return torch.where(mask, -100.0, q @ k.transpose(-2, -1)).softmax(-1) @ v


@case(padded, mutable={"embed": 8, "attn.q": 2, "up": 12})
class ExpandedMask(Residual):
    """The same in Python."""

    def __init__(self) -> None:
        super().__init__(GivenMask())

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        self.attn.mask = padding
        return super().forward(x)
