"""Networks of the less common modules of torch, and of common ones with uncommon settings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from networks.case import case, features, images, tokens
from networks.convolutional import conv
from networks.transformers import Residual
from torch import Tensor, nn


@case(images, mutable={"a": 6, "b": 8, "c": 4, "d": 6})
class PaddingModes(nn.Module):
    """Padding by name and by repeating the border, dilation, strides, even kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding="same"), nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect")
        self.c, self.d = nn.Conv2d(8, 4, 3, padding=2, dilation=2), nn.Conv2d(4, 6, 2, 2, padding_mode="circular")
        self.out = nn.ConvTranspose2d(6, 2, 3, 2, 1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.d(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))))


@case(images, mutable={"a": 6, "b": 8, "c": 4, "d": 6})
class BareNorms(nn.Module):
    """Norms without parameters, or without statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.out = conv(3, 6), conv(6, 8), conv(8, 4), conv(4, 6), conv(6, 2)
        self.no_affine, self.no_statistics = (
            nn.BatchNorm2d(6, affine=False),
            nn.BatchNorm2d(8, track_running_stats=False),
        )
        self.nothing = nn.BatchNorm2d(4, affine=False, track_running_stats=False)
        self.group = nn.GroupNorm(1, 6, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.no_statistics(self.b(F.relu(self.no_affine(self.a(x))))))
        return self.out(F.relu(self.group(self.d(F.relu(self.nothing(self.c(x)))))))


@case(tokens, mutable={"embed": 8, "b": 6, "c": 4})
class BareLayerNorms(nn.Module):
    """Layer norms without parameters: ``normalized_shape`` is the one place that says how many channels there are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.b, self.c, self.out = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(4, 3)
        self.norm, self.rms = nn.LayerNorm(8, elementwise_affine=False), nn.RMSNorm(6, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(F.gelu(self.rms(self.b(self.norm(self.embed(x))))))
        return self.out(F.layer_norm(x, x.shape[-1:]))


@case(tokens, mutable={"a": 6}, refused={"b": "fails|layer norm"})
class LayerNormByNumber(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.layer_norm(self.b(F.relu(self.a(x))), (8,)))


@case(images, mutable={"a": 6}, refused={"b": "normalises over 3 dims"})
class LayerNormOverPlaces(nn.Module):
    """Normalises over channels and places together, with a weight for each of both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.out = conv(3, 6), conv(6, 4), nn.LayerNorm((4, 8, 8)), conv(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.b(F.relu(self.a(x))))))


@case(images, mutable={"0": 6, "2": 4, "4": 6, "7": 6, "10": 5})
class ManyModules(nn.Sequential):
    """Gates, shuffles, pooling and resizing as modules."""

    def __init__(self) -> None:
        super().__init__(
            conv(3, 6), nn.Softplus(), conv(6, 8), nn.GLU(1), conv(4, 6), nn.Softmax2d(), nn.Upsample(scale_factor=2),
            conv(6, 6), nn.ChannelShuffle(1), nn.AdaptiveMaxPool2d(4), conv(6, 5), nn.Threshold(-0.5, -0.5),
            nn.ZeroPad2d(1), nn.LPPool2d(2, 2), nn.Hardshrink(0.01), conv(5, 2),
        )  # fmt: skip


@case(images, mutable={"a": 6, "b": 8, "c": 5})
class RandomActivations(nn.Module):
    """Activations that draw numbers in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = conv(3, 6), conv(6, 8), conv(8, 5), conv(5, 2)
        self.rrelu, self.alpha, self.feature = nn.RReLU(), nn.AlphaDropout(0.2), nn.FeatureAlphaDropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.alpha(F.selu(self.b(self.rrelu(self.a(x)))))
        return self.out(self.feature(self.c(x)))


@case(images, mutable={"a": 6, "b": 4, "c": 3})
class Unfolds(nn.Module):
    """Patches as channels, and back: each channel has four places side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = conv(3, 6), conv(6, 4), nn.Linear(16, 12), conv(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.unfold(self.b(F.relu(self.a(x))), 2, stride=2).transpose(1, 2)
        return self.out(F.fold(F.relu(self.c(x)).transpose(1, 2), (8, 8), 2, stride=2))


@case(tokens, mutable={"embed": 8, "attn.hidden": 6, "up": 12, "condition.0": 5})
class AdaptiveNorm(Residual):
    """DiT: one linear layer gives shift, scale and gate for the stream."""

    def __init__(self) -> None:
        super().__init__(nn.Module())
        self.attn.hidden, self.attn.back = nn.Linear(8, 6), nn.Linear(6, 8)
        self.condition = nn.Sequential(nn.Linear(5, 5), nn.SiLU(), nn.Linear(5, 24))

    def forward(self, x: Tensor) -> Tensor:
        shift, scale, gate = self.condition(x.mean(1)).unsqueeze(1).chunk(3, dim=-1)
        x = self.embed(x)
        y = self.norm(x) * (1 + scale) + shift
        x = x + gate * self.attn.back(F.gelu(self.attn.hidden(y)))
        return self.head(x + self.down(F.gelu(self.up(x))))


class CrossAttention(nn.Module):
    """Latents that are parameters read the tokens; several channel counts meet."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 2, 3
        self.latents = nn.Parameter(torch.rand(4, 8))
        self.q, self.k, self.v, self.proj = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 8)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, self.size).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        latents = self.latents.expand(x.shape[0], -1, -1)
        y = F.scaled_dot_product_attention(self._heads(self.q(latents)), self._heads(self.k(x)), self._heads(self.v(x)))
        return latents + self.proj(y.transpose(1, 2).flatten(2))


@case(tokens, mutable={"embed": 8, "cross.q": 2, "up": 12, "cross.proj": 8})
class Perceiver(nn.Module):
    """The latents' channels and the tokens' are two units."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cross = nn.Linear(5, 8), CrossAttention()
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cross(self.embed(x))
        return self.head(x + self.down(F.gelu(self.up(x))))


@case(features, mutable={"a": 6, "b": 4})
class ParameterContainers(nn.Module):
    """Parameters in lists and dicts, a buffer that is no state."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 3)
        self.scales = nn.ParameterList([nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(6))])
        self.named = nn.ParameterDict({"shift": nn.Parameter(torch.rand(4))})
        self.register_buffer("mean", torch.rand(1, 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        for scale in self.scales:
            x = torch.tanh(x * scale)
        return self.out(torch.tanh(self.b(x) + self.named["shift"] - self.mean))


@case(images, mutable={"encoder.0": 6, "encoder.2": 4, "decoder.0": 6})
class VariationalAutoencoder(nn.Module):
    """Draws noise in train mode; the latent's mean and variance come from one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 8))
        self.decoder = nn.Sequential(conv(4, 6), nn.ReLU(), conv(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = self.encoder(x).chunk(2, 1)
        if self.training:
            mean = mean + torch.randn_like(mean) * (0.5 * deviation).exp()
        return self.decoder(mean)
