"""Attention over maps of features: reduced keys, across channels, in pieces, pooled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from networks.case import case, images
from torch import Tensor, nn


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
