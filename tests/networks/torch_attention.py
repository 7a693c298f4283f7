"""Networks of PyTorch's own attention, in all its forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from networks.case import case, padded, tokens
from torch import Tensor, nn


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


@case(tokens, mutable={"embed": 4})
class MultiheadWithWeightsOfHeads(Multihead):
    """The weights of each head are an output: none can go, but channels of all of them can."""

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


@case(padded, mutable=JOINT)
class MultiheadGivenPadding(Multihead):
    """The mask is an input: it is expanded to as many heads as there are."""

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        return self.head(x + self.attn(y, y, y, key_padding_mask=padding, need_weights=False)[0])


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


@case(tokens, mutable={"embed": 8})
class MultiheadOfOne(Multihead):
    """A single head: its channels go with the stream's."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 1, batch_first=True)

    def attend(self, x: Tensor) -> Any:
        return self.attn(x, x, x, need_weights=False)
