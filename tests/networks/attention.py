"""Networks of attention as the well-known families of models write it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from networks.case import case, images, padded, tokens
from networks.transformers import AttributeAttention, Residual
from torch import Tensor, nn

SHARED = "read together with another dim"


# --- windows ---------------------------------------------------------------------------------------------------------


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


# --- maps ------------------------------------------------------------------------------------------------------------


class Reducing(nn.Module):
    """PVT: keys and values of a map that a convolution has made smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.dim, self.scale = 2, 8, 4**-0.5
        self.q, self.kv, self.proj = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 8)
        self.sr, self.norm = nn.Conv2d(8, 8, 2, 2), nn.LayerNorm(8)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        b, n, c = x.shape
        q = self.q(x).reshape(b, n, self.num_heads, c // self.num_heads).permute(0, 2, 1, 3)
        small = self.sr(x.permute(0, 2, 1).reshape(b, c, *size)).reshape(b, c, -1).permute(0, 2, 1)
        kv = self.kv(self.norm(small)).reshape(b, -1, 2, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        weights = ((q @ kv[0].transpose(-2, -1)) * self.scale).softmax(-1)
        return self.proj((weights @ kv[1]).transpose(1, 2).reshape(b, n, c))


@case(images, mutable={"patches": 2, "up": 12})
class SpatialReduction(nn.Module):
    """The smaller map's channels are as many as the stream's, and so are the queries', keys' and values'."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.attn, self.norm = nn.Conv2d(3, 8, 2, 2), Reducing(), nn.LayerNorm(8)
        self.up, self.conv, self.down = nn.Linear(8, 12), nn.Conv2d(12, 12, 3, 1, 1, groups=12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        b, _, h, w = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = x + self.attn(self.norm(x), (h, w))
        y = self.up(x)
        y = self.conv(y.transpose(1, 2).view(b, y.shape[-1], h, w)).flatten(2).transpose(1, 2)
        return self.head((x + self.down(F.gelu(y))).mean(1))


class CrossCovariance(nn.Module):
    """XCiT: heads attend over their channels."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.num_heads = 2
        self.qkv, self.proj, self.temperature = (
            nn.Linear(dim, 3 * dim),
            nn.Linear(dim, dim),
            nn.Parameter(torch.rand(2, 1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 4, 1)
        q, k, v = qkv.unbind(0)
        q, k = F.normalize(q, p=2.0, dim=-1), F.normalize(k, p=2.0, dim=-1)
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.proj((weights @ v).permute(0, 3, 1, 2).reshape(b, n, c))


class LocalPatches(nn.Module):
    """Back to a map, two depthwise convolutions, and forth to tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, 1, 1, groups=8)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        b, n, c = x.shape
        x = self.conv2(self.norm(F.gelu(self.conv1(x.permute(0, 2, 1).reshape(b, c, h, w)))))
        return x.reshape(b, c, n).permute(0, 2, 1)


@case(images, mutable={"patches": 2, "up": 12})
class CrossCovarianceBlock(nn.Module):
    """XCiT's block: layer scale as bare vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.attn, self.local = nn.Conv2d(3, 8, 2, 2), CrossCovariance(), LocalPatches()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.gamma1, self.gamma2, self.gamma3 = (nn.Parameter(torch.rand(8)) for _ in range(3))
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        h, w = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        x = x + self.gamma1 * self.attn(self.norm1(x))
        x = x + self.gamma3 * self.local(self.norm3(x), h, w)
        x = x + self.gamma2 * self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


class Pieces(nn.Module):
    """EdgeNeXt: pieces of the channels, each convolved after the piece before it was added; the last is smaller."""

    def __init__(self, dim: int, scales: int) -> None:
        super().__init__()
        self.width = max(-(-dim // scales), dim // scales)
        self.convs = nn.ModuleList(
            nn.Conv2d(self.width, self.width, 3, 1, 1, groups=self.width) for _ in range(scales - 1)
        )
        self.norm, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, 12), nn.Linear(12, dim)
        self.gamma = nn.Parameter(torch.rand(dim))

    def forward(self, x: Tensor) -> Tensor:
        given, spread = x, x.chunk(len(self.convs) + 1, 1)
        out: list[Tensor] = []
        for number, conv in enumerate(self.convs):
            out.append(conv(spread[number] if number == 0 else out[-1] + spread[number]))
        x = torch.cat([*out, spread[-1]], 1)
        y = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1)))))
        return given + (self.gamma * y).permute(0, 3, 1, 2)


@case(images, mutable={"stem": 2, "block.up": 12})
class UnequalPieces(nn.Module):
    """8 channels in pieces of 3, 3 and 2: if the last went as a whole, there would be two pieces only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 2, 2), Pieces(8, 3), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)))


class Partitioned(nn.Module):
    """MaxViT: windows as a dim of their own, heads by a number that was worked out, a table of relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.n_heads, self.head_dim, self.size = 8 // 4, 4, 2
        self.scale_factor = 8**-0.5
        self.to_qkv, self.merge = nn.Linear(8, 24), nn.Linear(8, 8)
        self.table = nn.Parameter(torch.randn(9, 2))
        place = torch.cartesian_prod(torch.arange(2), torch.arange(2))
        relative = place[:, None] - place[None] + 1
        self.register_buffer("index", relative[..., 0] * 3 + relative[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        p = self.size
        x = x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p, c)
        b, g, n, d = x.shape
        q, k, v = torch.chunk(self.to_qkv(x), 3, -1)
        q, k, v = (y.reshape(b, g, n, self.n_heads, self.head_dim).permute(0, 1, 3, 2, 4) for y in (q, k, v))
        scores = torch.einsum("bghid,bghjd->bghij", q, k * self.scale_factor)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous().unsqueeze(0)
        out = torch.einsum("bghij,bghjd->bghid", F.softmax(scores + bias, -1), v)
        out = self.merge(out.permute(0, 1, 3, 2, 4).reshape(b, g, n, d))
        out = out.reshape(b, h // p, w // p, p, p, c).permute(0, 5, 1, 3, 2, 4)
        return out.reshape(b, c, h, w)


@case(images, mutable={"stem": 2, "mid": 12})
class WindowsAsDim(nn.Module):
    """The size that comes back to a map was read before there were windows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attn, self.norm = nn.Conv2d(3, 8, 2, 2), Partitioned(), nn.BatchNorm2d(8)
        self.mid, self.end, self.head = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.attn(self.norm(x))
        return self.head(x + self.end(F.gelu(self.mid(x))))


class AttentionPool(nn.Module):
    """CLIP: one query, the mean of a map, through PyTorch's function for attention with weights of linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 2
        self.positions = nn.Parameter(torch.randn(17, 8))
        self.q, self.k, self.v, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x]) + self.positions[:, None]
        x, _ = F.multi_head_attention_forward(
            x[:1], x, x, x.shape[-1], self.num_heads, None, torch.cat([self.q.bias, self.k.bias, self.v.bias]),
            None, None, False, 0.0, self.c.weight, self.c.bias, self.training, None, False, None,
            use_separate_proj_weight=True, q_proj_weight=self.q.weight, k_proj_weight=self.k.weight,
            v_proj_weight=self.v.weight,
        )  # fmt: skip
        return x.squeeze(0)


@case(images, mutable={"pool.c": 6}, refused={"stem": "pool fails", "pool.q": "pool fails"})
class PooledByAttention(nn.Module):
    """The function asks for as many channels as the map has, which are not known to belong together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool, self.head = nn.Conv2d(3, 8, 2, 2), AttentionPool(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.pool(F.relu(self.stem(x)))))


# --- tokens and positions --------------------------------------------------------------------------------------------


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
