"""Vision transformers, by what stands before the patches and by how their positions are kept."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from networks.case import case, images, tokens
from networks.transformers import AttributeAttention, Residual
from torch import Tensor, nn

SHARED = "read together with another dim"


class Plain(AttributeAttention):
    """Two heads of 4, by an attribute."""

    def __init__(self) -> None:
        super().__init__(8, 2, 4)


class Patches(nn.Module):
    """A ViT of one block, with what stands before the patches, and their positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.attn = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8), Plain()
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def embed(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(self.patches(x))
        x = x + self.attn(self.norm(x))
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x[:, 0])


VIT = {"patches": 8, "attn.q": 2, "up": 12}


@case(images, mutable=VIT)
class ClassAndDistillation(Patches):
    """DeiT: two tokens, and positions of all."""

    def __init__(self) -> None:
        super().__init__()
        self.cls, self.dist = nn.Parameter(torch.rand(1, 1, 8)), nn.Parameter(torch.rand(1, 1, 8))
        self.positions, self.other = nn.Parameter(torch.rand(1, 18, 8)), nn.Linear(8, 3)

    def embed(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        b, _, c = x.shape
        return torch.cat([self.cls.expand(b, 1, c), self.dist.expand(b, -1, -1), x], 1) + self.positions

    def forward(self, x: Tensor) -> Any:
        x = self.embed(self.patches(x))
        x = x + self.attn(self.norm(x))
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x[:, 0]), self.other(x[:, 1])


@case(images, mutable=VIT)
class PositionsStretched(Patches):
    """The table was learnt for 2 x 2 patches, and is stretched to 4 x 4; the class token keeps its own position."""

    def __init__(self) -> None:
        super().__init__()
        self.cls, self.positions = nn.Parameter(torch.rand(1, 1, 8)), nn.Parameter(torch.rand(1, 5, 8))

    def embed(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        first, rest = self.positions[:, :1], self.positions[:, 1:]
        side, c = int(rest.shape[1] ** 0.5), rest.shape[-1]
        rest = rest.reshape(1, side, side, c).permute(0, 3, 1, 2)
        rest = F.interpolate(rest, (h, w), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).reshape(1, -1, c)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], 1)
        return x + torch.cat([first, rest], 1)


@case(images, mutable=VIT)
class PositionsAsMap(Patches):
    """A table (1, C, 3, 3), stretched."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.rand(1, 8, 3, 3))

    def embed(self, x: Tensor) -> Tensor:
        x = x + F.interpolate(self.positions, x.shape[-2:], mode="bilinear", align_corners=False)
        return x.flatten(2).transpose(1, 2)


@case(images, mutable=VIT)
class PositionsAlongALine(Patches):
    """A table (1, N, C) for half as many places, stretched along its only dim."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.rand(1, 8, 8))

    def embed(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        return x + F.interpolate(self.positions.transpose(1, 2), x.shape[1], mode="linear").transpose(1, 2)


class PoolingAttention(nn.Module):
    """MViT: queries and keys are pooled within each head, the class token apart; queries are added to the result."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 2, 4
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.pool_q, self.pool_k = (nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False) for _ in range(2))
        self.norm_q, self.norm_k = nn.LayerNorm(4), nn.LayerNorm(4)

    def pool(self, x: Tensor, conv: nn.Module, norm: nn.Module, h: int, w: int) -> Tensor:
        token, x = x[:, :, :1], x[:, :, 1:]
        b, heads, n, d = x.shape
        x = conv(x.reshape(b * heads, h, w, d).permute(0, 3, 1, 2))
        x = x.reshape(b, heads, d, n).transpose(2, 3)
        return norm(torch.cat([token, x], 2))

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).transpose(1, 3).unbind(2)
        q, k = self.pool(q, self.pool_q, self.norm_q, h, w), self.pool(k, self.pool_k, self.norm_k, h, w)
        x = (q * self.head_dim**-0.5 @ k.transpose(2, 3)).softmax(-1) @ v + q
        return self.proj(x.transpose(1, 2).reshape(b, n, -1))


@case(
    images,
    mutable={"patches": 8, "attn.qkv": 2, "up": 12},
    refused={f"attn.{name}": SHARED for name in ("pool_q", "pool_k", "norm_q", "norm_k")},
)
class PooledHeads(Patches):
    """All heads share the convolution and the norm, so that whole heads go."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.cls = PoolingAttention(), nn.Parameter(torch.rand(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        b, _, h, w = x.shape
        x = torch.cat([self.cls.expand(b, -1, -1), x.flatten(2).transpose(1, 2)], 1)
        x = x + self.attn(self.norm(x), h, w)
        return self.head((x + self.down(F.gelu(self.up(x))))[:, 0])


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


@case(tokens, mutable={"embed": 8, "attn.0.q": 2, "up": 12})
class ScaledLayers(Residual):
    """Layer scale as a module."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(Plain(), LayerScale()))
