"""Attention in windows, shifted or by cosine, as Swin has it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from networks.case import case, images
from networks.transformers import Residual
from torch import Tensor, nn


def cut_windows(x: Tensor, size: int) -> Tensor:
    b, h, w, c = x.shape
    return x.view(b, h // size, size, w // size, size, c).transpose(2, 3).reshape(-1, size * size, c)


def join_windows(x: Tensor, size: int, h: int, w: int) -> Tensor:
    c = x.shape[-1]
    return x.view(-1, h // size, w // size, size, size, c).transpose(2, 3).reshape(-1, h, w, c)


class SwinBlock(nn.Module):
    """Windows of 2 x 2, a bias for each relative position, and a mask where the shifted windows wrap around."""

    def __init__(self, dim: int, heads: int, shift: int) -> None:
        super().__init__()
        self.num_heads, self.size, self.shift = heads, 2, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 3 * heads), nn.Linear(3 * heads, dim)
        self.table = nn.Parameter(torch.randn(9, heads))
        place = torch.cartesian_prod(torch.arange(2), torch.arange(2))
        relative = place[:, None] - place[None] + 1
        self.register_buffer("index", (relative[..., 0] * 3 + relative[..., 1]).flatten())

    def mask(self, h: int, w: int, like: Tensor) -> Tensor:
        """(windows, 4, 4): places of different regions don't see each other."""
        region = like.new_zeros(1, h, w, 1)
        for number, rows in enumerate((slice(0, -2), slice(-2, -1), slice(-1, None))):
            for second, columns in enumerate((slice(0, -2), slice(-2, -1), slice(-1, None))):
                region[:, rows, columns] = 3 * number + second
        regions = cut_windows(region, 2).squeeze(-1)
        differ = regions[:, None] != regions[:, :, None]
        return like.new_zeros(differ.shape).masked_fill(differ, -100.0)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = q * (c // self.num_heads) ** -0.5 @ k.transpose(-2, -1)
        weights = weights + self.table[self.index].view(n, n, -1).permute(2, 0, 1)
        if mask is not None:
            count = mask.shape[0]
            weights = weights.view(b // count, count, self.num_heads, n, n) + mask[None, :, None]
            weights = weights.view(-1, self.num_heads, n, n)
        return self.proj((weights.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x: Tensor) -> Tensor:
        _, h, w, _ = x.shape
        y = self.norm1(x)
        if self.shift:
            y = y.roll((-self.shift, -self.shift), (1, 2))
        y = self.attend(cut_windows(y, self.size), self.mask(h, w, x) if self.shift else None)
        y = join_windows(y, self.size, h, w)
        if self.shift:
            y = y.roll((self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.down(F.gelu(self.up(self.norm2(x))))


@case(images, mutable={"patches": 2, "first.up": 6, "second.up": 6, "merge": 4, "third.up": 12})
class ShiftedWindows(nn.Module):
    """Swin: ``c`` is read off a window's channels, and shapes both the heads and what they give.

    Heads go with the stream, and in the second stage with that of the second stage.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.first, self.second = nn.Conv2d(3, 8, 2, 2), SwinBlock(8, 2, 0), SwinBlock(8, 2, 1)
        self.norm, self.merge, self.third = nn.LayerNorm(32), nn.Linear(32, 16, bias=False), SwinBlock(16, 4, 0)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.patches(x).permute(0, 2, 3, 1)))
        corners = [x[:, i::2, j::2] for j in range(2) for i in range(2)]
        return self.head(self.third(self.merge(self.norm(torch.cat(corners, -1)))).mean((1, 2)))


class ScaledWindows(nn.Module):
    """Swin V2: cosines of queries and keys, a learnt scale for each head, a bias that a small network gives."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 2
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.rand(2, 1, 1))
        self.bias = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))
        place = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0))
        self.register_buffer("places", place[:, None] - place[None])

    def forward(self, x: Tensor) -> Tensor:
        _, h, w, _ = x.shape
        x = cut_windows(x, 2)
        b, n, c = x.size(0), x.size(1), x.size(2)
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        weights = weights * self.scale.clamp(max=4.6).exp()
        weights = weights + 16 * torch.sigmoid(self.bias(self.places).permute(2, 0, 1))
        return join_windows(self.proj((weights.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)), 2, h, w)


def pixels() -> Tensor:
    """Images with their channels last, (2, 8, 8, 3)."""
    return images().permute(0, 2, 3, 1).contiguous()


@case(pixels, mutable={"embed": 2, "attn.bias.0": 5, "attn.places[2]": 2, "up": 12})
class WindowsByCosine(Residual):
    def __init__(self) -> None:
        super().__init__(ScaledWindows(), 3)
