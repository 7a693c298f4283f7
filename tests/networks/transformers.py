"""Networks of attention, and of tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from networks.case import case, ids, images, tokens
from torch import Tensor, nn


class Residual(nn.Module):
    """A stream of 8 channels through an attention block and a hidden layer of 12."""

    def __init__(self, block: nn.Module, inputs: int = 5) -> None:
        super().__init__()
        self.embed, self.norm, self.attn = nn.Linear(inputs, 8), nn.LayerNorm(8), block
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attn(self.norm(x))
        return self.head(x + self.down(F.gelu(self.up(x))))


class AttributeAttention(nn.Module):
    """Views by ``num_heads`` and ``head_dim``, as most attention modules do."""

    def __init__(self, dim: int = 8, heads: int = 4, head_dim: int = 3) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, head_dim
        self.q, self.k, self.v = (nn.Linear(dim, heads * head_dim) for _ in range(3))
        self.proj = nn.Linear(heads * head_dim, dim)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            layer(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(b, n, -1))


@case(tokens, mutable={"embed": 8, "attn.q": 4, "up": 12})
class AttentionByAttributes(Residual):
    """Whole heads stay or go."""

    def __init__(self) -> None:
        super().__init__(AttributeAttention())


class WrittenOut(AttributeAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q @ k.transpose(-2, -1)) * self.head_dim**-0.5
        return weights.softmax(-1) @ v


@case(tokens, mutable={"embed": 8, "attn.q": 4, "up": 12})
class AttentionWrittenOut(Residual):
    def __init__(self) -> None:
        super().__init__(WrittenOut())


class JointAttention(nn.Module):
    """One weight for queries, keys and values; a norm of each head's queries."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = 4, 3, 3**-0.5
        self.qkv, self.proj, self.q_norm = nn.Linear(8, 36), nn.Linear(12, 8), nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        weights = (self.q_norm(q) * self.scale @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, -1))


@case(
    tokens,
    mutable={"embed": 8, "attn.qkv": 4, "up": 12},
    refused={"attn.q_norm": "read together with another dim"},
)
class AttentionByOneWeight(Residual):
    def __init__(self) -> None:
        super().__init__(JointAttention())


class EinsumAttention(nn.Module):
    """Four heads by a number in the code: ``-1`` makes whatever is left their size, which would be another model."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (4, -1)) for layer in (self.q, self.k, self.v))
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1)
        return self.proj(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2))


@case(tokens, mutable={"embed": 8, "up": 12}, refused={"attn.q": "something else|fails|narrow"})
class AttentionByNumber(Residual):
    def __init__(self) -> None:
        super().__init__(EinsumAttention())


class SingleHead(nn.Module):
    """No heads: queries and keys have channels of their own, and so have values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.bmm(self.q(x), self.k(x).transpose(1, 2)).softmax(-1)
        return self.proj(torch.bmm(weights, self.v(x)))


@case(tokens, mutable={"embed": 8, "attn.q": 4, "attn.v": 6, "up": 12})
class AttentionOfOneHead(Residual):
    """No weight reads the queries' channels, but the keys' do: they go together, and are inexact."""

    def __init__(self) -> None:
        super().__init__(SingleHead())


class ChannelAttention(nn.Module):
    """XCiT: attends over channels instead of places, within each head."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 2
        self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))
        self.temperature = nn.Parameter(torch.rand(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).reshape(b, n, self.num_heads, -1).permute(0, 2, 3, 1) for layer in (self.q, self.k, self.v))
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        out = (weights * self.temperature).softmax(-1) @ v
        return self.proj(out.permute(0, 3, 1, 2).reshape(b, n, -1))


@case(tokens, mutable={"embed": 8, "attn.q": 2, "up": 12})
class AttentionOverChannels(Residual):
    def __init__(self) -> None:
        super().__init__(ChannelAttention())


class Window(nn.Module):
    """Windows of 4 places and 4 heads: two equal numbers of which one counts channels."""

    def __init__(self) -> None:
        super().__init__()
        self.window_size, self.num_heads, self.head_dim = 4, 4, 2
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.rand(4, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        size = self.window_size
        x = x.view(b, h // size, size, w // size, size, c).transpose(2, 3).reshape(-1, size * size, c)
        q, k, v = self.qkv(x).reshape(x.shape[0], size * size, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        x = ((q @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.proj(x).view(b, h // size, w // size, size, size, -1).transpose(2, 3).reshape(b, h, w, -1)


@case(lambda: images().permute(0, 2, 3, 1).contiguous(), mutable={"embed": 8, "attn.qkv": 4, "up": 12})
class WindowAttention(Residual):
    def __init__(self) -> None:
        super().__init__(Window(), 3)


class Rotary(nn.Module):
    """Rotary positions, and half as many heads of keys and values as of queries."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = 4, 2, 6
        self.q, self.proj = nn.Linear(8, 24, bias=False), nn.Linear(24, 8, bias=False)
        self.k, self.v = nn.Linear(8, 12, bias=False), nn.Linear(8, 12, bias=False)

    def _turn(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[2])[:, None] / 100 ** (torch.arange(0, self.head_dim, 2) / self.head_dim)
        cos, sin = torch.cat([angles.cos()] * 2, -1).to(x), torch.cat([angles.sin()] * 2, -1).to(x)
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self._turn(self.q(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2))
        k = self._turn(self.k(x).view(b, n, self.num_kv_heads, self.head_dim).transpose(1, 2))
        v = self.v(x).view(b, n, self.num_kv_heads, self.head_dim).transpose(1, 2)
        times = self.num_heads // self.num_kv_heads
        k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(x.transpose(1, 2).reshape(b, n, -1))


@case(tokens, mutable={"embed": 8, "attn.q": 2, "up": 12})
class GroupedQueryAttention(Residual):
    """A head of keys goes with the queries that read it."""

    def __init__(self) -> None:
        super().__init__(Rotary())


@case(tokens, mutable={"embed": 2, "encoder.layers.0.linear1": 12, "encoder.layers.1.linear1": 12})
class TorchEncoder(nn.Module):
    """The layers that torch has ready."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.1)
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


@case(ids, mutable={"embed": 8, "up": 12, "gate": 10})
class TiedLanguageModel(nn.Module):
    """The head's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(11, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.gate, self.value, self.back = nn.Linear(8, 10), nn.Linear(8, 10), nn.Linear(10, 8)
        self.norm, self.head = nn.RMSNorm(8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.down(F.gelu(self.up(x)))
        x = x + self.back(F.silu(self.gate(x)) * self.value(x))
        return self.head(self.norm(x))


@case(images, mutable={"patches": 8, "up": 12})
class PatchesAndPositions(nn.Module):
    """A class token and positions that are bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.token, self.positions = nn.Parameter(torch.rand(1, 1, 8)), nn.Parameter(torch.rand(1, 5, 8))
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x[:, 0])


TOKENS = "meets a dimension without channels|lies along"


@case(
    images,
    mutable={"patches": 8, "token_up": 6, "up": 12},
    refused={"token_down": TOKENS},
)
class Mixer(nn.Module):
    """Linear layers over channels, and over places."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.token_up, self.token_down = nn.Linear(16, 6), nn.Linear(6, 16)
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.token_down(F.gelu(self.token_up(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x.mean(1))


@case(tokens, mutable={"embed": 8, "up": 6}, refused={"places": TOKENS})
class GatedByPlaces(nn.Module):
    """gMLP: half of the channels weigh the other half, after a linear layer over places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down, self.head = nn.Linear(5, 8), nn.Linear(8, 12), nn.Linear(6, 8), nn.Linear(8, 3)
        self.norm, self.places = nn.LayerNorm(6), nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        u, v = F.gelu(self.up(x)).chunk(2, -1)
        v = self.places(self.norm(v).transpose(1, 2)).transpose(1, 2)
        return self.head(x + self.down(u * v))
