"""The networks that the invariants are tested on, with what is known about each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn


class Toy(nn.Module):
    """The network of the seed notebook."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            OrderedDict(
                [("conv0", nn.Conv2d(3, 8, 3, 1, 1)), ("relu", nn.ReLU()), ("conv1", nn.Conv2d(8, 16, 3, 1, 1))]
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.net(x)).flatten(1))


class Scaled(nn.Module):
    """Owns a bare parameter and a bare buffer over its channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(width, 1, 1) + 0.5)
        self.register_buffer("shift", torch.randn(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma + self.shift


class Everything(nn.Module):
    """Every dynamic op that torchvision's networks lack: 1-D and 3-D, transposed, group norm, PReLU, bare tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm3d(8)
        self.grouped = nn.Conv3d(8, 8, 3, padding=1, groups=2)
        self.scale = Scaled(8)
        self.up = nn.ConvTranspose2d(8, 12, 2, 2)
        self.group_norm = nn.GroupNorm(3, 12)
        self.act = nn.PReLU(12)
        self.line = nn.Conv1d(12, 10, 3, padding=1)
        self.line_norm = nn.BatchNorm1d(10)
        self.up_line = nn.ConvTranspose1d(10, 6, 2, 2, groups=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(torch.relu(self.norm(self.stem(x)))).mean(2)
        x = self.act(self.group_norm(self.up(self.scale(x)))).flatten(2)
        x = torch.relu(self.line_norm(self.line(x)))
        return self.head(self.up_line(x).mean(2))


class Tokens(nn.Module):
    """Token ids in, a tuple out; embeddings tied with the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.up = nn.Linear(16, 32)
        self.norm = nn.LayerNorm(32)
        self.down = nn.Linear(32, 16)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(ids)
        x = x + self.down(torch.nn.functional.gelu(self.norm(self.up(x))))
        logits = self.head(x)
        return logits, logits.square().sum()


@dataclass(frozen=True)
class Entry:
    """One network.

    Attributes:
        name: Its name in test reports.
        build: Makes it.
        inputs: Makes example inputs for it.
        mutable: Number of mutable units.
        units: Number of all units.
        first: Names of the first units, in order.
        dtype: Of the comparisons; single precision for the one that is too large for double.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    mutable: int
    units: int
    first: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        return self.name


def images(size: int = 32, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def _torchvision(
    name: str, mutable: int, units: int, *first: str, dtype: torch.dtype = torch.float64, **kwargs: Any
) -> Entry:
    build = partial(torchvision.models.get_model, name, weights=None, **kwargs)
    return Entry(name, build, images, mutable, units, first, dtype)


# counts: reference/oracles for the classics, derived by hand for the rest (one unit a residual stream, one for each
# inner convolution or hidden layer, one for each squeeze)
ZOO: tuple[Entry, ...] = (
    Entry(
        "toy",
        Toy,
        images,
        2,
        4,
        ("net.conv0_(0, 3)_3", "net.conv0_(0, 8)_8", "net.conv1_(0, 16)_16", "head_(0, 1000)_1000"),
    ),
    Entry("everything", Everything, lambda: torch.randn(2, 3, 2, 4, 4), 5, 7),
    Entry("tokens", Tokens, lambda: torch.arange(12).reshape(2, 6), 2, 3),
    _torchvision("resnet18", 12, 14, "conv1_(0, 3)_3", "conv1_(0, 64)_64", "layer1.0.conv1_(0, 64)_64"),
    _torchvision("resnet34", 20, 22, "conv1_(0, 3)_3", "conv1_(0, 64)_64", "layer1.0.conv1_(0, 64)_64"),
    _torchvision("resnet50", 37, 39, "conv1_(0, 3)_3", "conv1_(0, 64)_64", "layer1.0.conv1_(0, 64)_64"),
    _torchvision("resnext50_32x4d", 37, 39, "conv1_(0, 3)_3", "conv1_(0, 64)_64", "layer1.0.conv1_(0, 128)_128"),
    _torchvision("mobilenet_v2", 25, 27, "features.0.0_(0, 3)_3", "features.0.0_(0, 32)_32"),
    _torchvision("mobilenet_v3_small", 27, 29, "features.0.0_(0, 3)_3", "features.0.0_(0, 16)_16"),
    _torchvision("mobilenet_v3_large", 30, 32, "features.0.0_(0, 3)_3", "features.0.0_(0, 16)_16"),
    _torchvision(
        "vgg11_bn",
        10,
        12,
        "features.0_(0, 3)_3",
        "features.0_(0, 64)_64",
        "features.4_(0, 128)_128",
        dtype=torch.float32,
    ),
    _torchvision("densenet121", 120, 122, "features.conv0_(0, 3)_3", "features.conv0_(0, 64)_64"),
    _torchvision("shufflenet_v2_x1_0", 19, 23, "conv1.0_(0, 3)_3", "conv1.0_(0, 24)_24"),
    _torchvision("efficientnet_b0", 40, 42, "features.0.0_(0, 3)_3", "features.0.0_(0, 32)_32"),
    _torchvision("convnext_tiny", 22, 24, "features.0.0_(0, 3)_3", "features.0.0_(0, 96)_96"),
    _torchvision("vit_b_16", 13, 16, "conv_proj_(0, 3)_3", dtype=torch.float32, image_size=32),
    _torchvision("googlenet", 61, 65, "conv1.conv_(0, 3)_3", init_weights=False, aux_logits=True),
    _torchvision("lraspp_mobilenet_v3_large", 30, 32, "backbone.0.0_(0, 3)_3", weights_backbone=None),
    _torchvision("fcn_resnet50", 38, 40, "backbone.conv1_(0, 3)_3", weights_backbone=None),
)


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give constant tensors random values: a fresh norm's ones, or gammas near zero, would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
            low = 0.5 if float(tensor.flatten()[0]) > 0.5 else -0.25
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + low)
    return model


def cast(inputs: Any, dtype: torch.dtype) -> Any:
    return inputs.to(dtype) if isinstance(inputs, Tensor) and inputs.is_floating_point() else inputs
