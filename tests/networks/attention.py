"""Networks of attention as the well-known families of models write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from networks.case import case, images, tokens
from networks.transformers import AttributeAttention, Residual
from torch import Tensor, nn


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * d) as (B, heads, N, d)."""
    b, n, c = x.shape
    return x.reshape(b, n, heads, c // heads).transpose(1, 2)


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


# --- torch's own -----------------------------------------------------------------------------------------------------


class Multihead(nn.Module):
    """A stream of 8 channels through an ``nn.MultiheadAttention`` of 2 heads."""

    options: ClassVar[Mapping[str, Any]] = {"batch_first": True}
    calls: ClassVar[Mapping[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.attn = nn.MultiheadAttention(8, 2, **self.options)
        self.register_buffer("causal", torch.ones(7, 7, dtype=torch.bool).triu(1))
        self.register_buffer("bias", torch.randn(7, 7))
        self.register_buffer("padding", torch.arange(7).expand(2, 7) > torch.tensor([[4], [6]]))

    def attend(self, x: Tensor) -> Any:
        return self.attn(x, x, x, **self.calls)

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        y, weights = self.attend(self.norm(x))
        y = self.head(x + y)
        return y if weights is None else (y, weights)


JOINT = {"embed": 2}


@case(tokens, mutable=JOINT)
class MultiheadWithWeights(Multihead):
    """Heads go with the stream, and the weights are a mean over the heads."""


@case(tokens, mutable={}, refused={"embed": "something else"})
class MultiheadWithWeightsOfHeads(Multihead):
    """The weights of each head are an output: none can go, and with fewer channels in each the scale is another."""

    calls: ClassVar = {"average_attn_weights": False}


@case(tokens, mutable=JOINT)
class MultiheadWithoutWeights(Multihead):
    calls: ClassVar = {"need_weights": False}


@case(tokens, mutable=JOINT)
class MultiheadBatchSecond(Multihead):
    options: ClassVar = {}
    calls: ClassVar = {"need_weights": False}


@case(lambda: tokens()[0], mutable=JOINT)
class MultiheadWithoutBatch(Multihead):
    calls: ClassVar = {"need_weights": False}


@case(tokens, mutable=JOINT)
class MultiheadWithoutBias(Multihead):
    options: ClassVar = {"bias": False, "batch_first": True}
    calls: ClassVar = {"need_weights": False}


@case(tokens, mutable=JOINT)
class MultiheadBiasOfKeys(Multihead):
    options: ClassVar = {"add_bias_kv": True, "batch_first": True}
    calls: ClassVar = {"need_weights": False}


@case(tokens, mutable=JOINT)
class MultiheadZeroAttention(Multihead):
    options: ClassVar = {"add_zero_attn": True, "batch_first": True}


@case(tokens, mutable=JOINT)
class MultiheadWithDropout(Multihead):
    options: ClassVar = {"dropout": 0.3, "batch_first": True}
    calls: ClassVar = {"need_weights": False}


class Masked(Multihead):
    def attend(self, x: Tensor) -> Any:
        return self.attn(x, x, x, attn_mask=self.bias, need_weights=True)


@case(tokens, mutable=JOINT)
class MultiheadFloatMask(Masked):
    pass


@case(tokens, mutable=JOINT)
class MultiheadBoolMask(Multihead):
    def attend(self, x: Tensor) -> Any:
        return self.attn(x, x, x, attn_mask=self.causal, need_weights=False)


@case(tokens, mutable=JOINT)
class MultiheadCausal(Multihead):
    def attend(self, x: Tensor) -> Any:
        return self.attn(x, x, x, attn_mask=self.causal, need_weights=False, is_causal=True)


@case(tokens, mutable=JOINT)
class MultiheadPadding(Multihead):
    def attend(self, x: Tensor) -> Any:
        return self.attn(x, x, x, key_padding_mask=self.padding, need_weights=False)


@case(tokens, mutable=JOINT)
class MultiheadBothMasks(Multihead):
    def attend(self, x: Tensor) -> Any:
        return self.attn(x, x, x, key_padding_mask=self.padding, attn_mask=self.causal)


@case(tokens, mutable=JOINT)
class MultiheadMaskOfHeads(Multihead):
    """A mask for each head of each sequence, (4, 7, 7): a head takes its own along."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("masks", torch.randn(4, 7, 7))

    def attend(self, x: Tensor) -> Any:
        return self.attn(x, x, x, attn_mask=self.masks, need_weights=False)


def padded() -> tuple[Tensor, Tensor]:
    """Two sequences of 7 vectors, and which of them are but padding."""
    return tokens(), torch.arange(7).expand(2, 7) > torch.tensor([[4], [6]])


@case(padded, mutable=JOINT)
class MultiheadGivenPadding(Multihead):
    """The mask is an input: it is expanded to as many heads as there are."""

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        return self.head(x + self.attn(y, y, y, key_padding_mask=padding, need_weights=False)[0])


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


CROSSING = tuple((f"attn.{key}_proj_weight", 1) for key in "qkv")


class Crossing(nn.Module):
    """Queries of 8 channels; keys and values of others."""

    options: ClassVar[Mapping[str, Any]] = {"kdim": 6, "vdim": 4}

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 8), nn.Linear(5, 6), nn.Linear(5, 4)
        self.attn, self.head = nn.MultiheadAttention(8, 2, batch_first=True, **self.options), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        return self.head(q + self.attn(q, F.relu(self.k(x)), F.relu(self.v(x)), need_weights=False)[0])


@case(tokens, mutable={"q": 2, "k": 6, "v": 4}, reads=CROSSING)
class MultiheadCrossing(Crossing):
    """Each input has a width of its own; only the queries' is the heads'."""


@case(tokens, mutable={"q": 2, "k": 6, "v": 4}, reads=CROSSING)
class MultiheadCrossingWithoutBias(Crossing):
    options: ClassVar = {"kdim": 6, "vdim": 4, "bias": False}


@case(tokens, mutable={"q": 2, "k": 6, "v": 4}, reads=CROSSING)
class MultiheadCrossingBiasOfKeys(Crossing):
    options: ClassVar = {"kdim": 6, "vdim": 4, "add_bias_kv": True, "add_zero_attn": True}


@case(tokens, mutable=JOINT, reads=(("attn.in_proj_weight", 1),))
class MultiheadOfMemory(nn.Module):
    """Keys and values as wide as queries, of another tensor: one packed weight reads both, so they go together."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.memory, self.head = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y, memory = self.embed(x), F.relu(self.memory(x.flip(1)))
        return self.head(y + self.attn(y, memory, memory, need_weights=False)[0])


class EncoderLayer(nn.Module):
    """One ready layer."""

    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, **self.options)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)))


@case(tokens, mutable={"embed": 2, "layer.linear1": 12})
class EncoderLayerNormLast(EncoderLayer):
    pass


@case(tokens, mutable={"embed": 2, "layer.linear1": 12})
class EncoderLayerNormFirst(EncoderLayer):
    options: ClassVar = {"norm_first": True, "activation": "gelu", "bias": False}


class DecoderLayer(nn.Module):
    """One ready layer, which reads a memory."""

    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.memory, self.head = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True, **self.options)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=x.dtype)
        return self.head(self.layer(self.embed(x), self.memory(x), tgt_mask=mask, tgt_is_causal=True))


@case(tokens, mutable={"embed": 2, "layer.linear1": 12})
class DecoderLayerNormLast(DecoderLayer):
    pass


@case(tokens, mutable={"embed": 2, "layer.linear1": 12})
class DecoderLayerNormFirst(DecoderLayer):
    options: ClassVar = {"norm_first": True}


@case(tokens, mutable={"embed": 2, "core.encoder.layers.0.linear1": 6, "core.decoder.layers.0.linear1": 6})
class TorchTransformer(nn.Module):
    """Encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.core = nn.Transformer(8, 2, 1, 1, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.core(x, x[:, :4]))


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


SHARED = "read together with another dim"


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
