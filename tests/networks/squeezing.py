"""Networks that weigh their channels by what is in them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from networks.case import case, images
from networks.convolutional import conv
from torch import Tensor, nn


@case(images, mutable={"a": 8, "reduce": 4})
class SqueezeExcite(nn.Module):
    """Linear layers, and views by sizes that are read off the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.reduce, self.expand, self.out = conv(3, 8), nn.Linear(8, 4), nn.Linear(4, 8), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, c, _, _ = x.size()
        weights = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1).view(b, c))))
        return self.out(x * torch.sigmoid(weights).view(b, c, 1, 1))


@case(images, mutable={"reduce": 4}, refused={"a": r"fails|something else"})
class SqueezeExciteByNumber(SqueezeExcite):
    """The same with a number in the code: the squeeze alone can change."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        weights = self.expand(F.gelu(self.reduce(x.mean((2, 3)).view(-1, 8))))
        return self.out(x * torch.sigmoid(weights).view(-1, 8, 1, 1))


@case(images, mutable={"a": 8, "shared.0": 4}, refused={"spatial": "meets a dimension without channels"})
class CBAM(nn.Module):
    """Weighs channels, then places by the mean and the maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out, self.spatial = conv(3, 8), conv(8, 2), conv(2, 1, 7)
        self.shared = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x * torch.sigmoid(self.shared(x.mean((2, 3))) + self.shared(x.amax((2, 3))))[:, :, None, None]
        places = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return self.out(x * torch.sigmoid(self.spatial(places)))


@case(images, mutable={"a": 8})
class EfficientChannelAttention(nn.Module):
    """A convolution along the axis of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mix, self.out = conv(3, 8), nn.Conv1d(1, 1, 3, padding=1, bias=False), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.mix(x.mean((2, 3)).view(x.shape[0], 1, -1))
        return self.out(x * y.view(x.shape[0], -1, 1, 1).sigmoid().expand_as(x))


@case(images, mutable={"paths.0": 8, "reduce": 4})
class SelectiveKernel(nn.Module):
    """Chooses between two convolutions; views by two attributes, of which one counts channels."""

    def __init__(self) -> None:
        super().__init__()
        self.num_paths, self.num_features = 2, 8
        self.paths = nn.ModuleList([conv(3, 8), conv(3, 8, 5)])
        self.reduce, self.norm, self.select, self.out = conv(8, 4, 1), nn.BatchNorm2d(4), conv(4, 16, 1), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([path(x) for path in self.paths], 1)
        y = F.relu(self.norm(self.reduce(both.sum(1).mean((2, 3), keepdim=True))))
        y = self.select(y).view(x.shape[0], self.num_paths, self.num_features, 1, 1).softmax(1)
        return self.out((both * y).sum(1))


@case(images, mutable={"a": (8, 2), "convolution": 8, "reduce": 4})
class SplitAttention(nn.Module):
    """ResNeSt: the groups of a convolution are weighed against each other."""

    def __init__(self) -> None:
        super().__init__()
        self.radix = 2
        self.a, self.convolution = conv(3, 8), conv(8, 16, groups=2)
        self.reduce, self.expand, self.out = conv(8, 4, 1), conv(4, 16, 1), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.convolution(self.a(x)))
        b, rc, h, w = x.shape
        x = x.reshape(b, self.radix, rc // self.radix, h, w)
        y = self.expand(F.relu(self.reduce(x.sum(1).mean((2, 3), keepdim=True))))
        y = y.view(b, self.radix, -1).softmax(1).reshape(b, -1, 1, 1)
        return self.out((x * y.reshape(b, self.radix, rc // self.radix, 1, 1)).sum(1))


@case(images, mutable={"a": 4})
class ShuffleAttention(nn.Module):
    """Groups of channels go to the batch dim and share their parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 2
        self.a, self.out = conv(3, 16), conv(16, 2)
        self.weight, self.bias = nn.Parameter(torch.rand(1, 4, 1, 1)), nn.Parameter(torch.rand(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, _, h, w = x.shape
        left, right = x.reshape(b * self.groups, -1, h, w).chunk(2, 1)
        left = left * torch.sigmoid(self.weight * left.mean((2, 3), keepdim=True) + self.bias)
        x = torch.cat([left, right], 1).reshape(b, -1, h, w)
        return self.out(F.channel_shuffle(x, 2))


class GRN(nn.Module):
    """ConvNeXt V2's response norm, channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(channels)), nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(p=2, dim=(1, 2), keepdim=True)
        size = size / (size.mean(dim=-1, keepdim=True) + 1e-6)
        return x + torch.addcmul(self.bias.view(1, 1, 1, -1), self.weight.view(1, 1, 1, -1), x * size)


@case(images, mutable={"a": 8, "up": 12})
class ConvNeXtV2Block(nn.Module):
    """Layer norm and linear layers on channels last, a response norm, a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.depthwise, self.norm = conv(3, 8), conv(8, 8, 7, groups=8), nn.LayerNorm(8)
        self.up, self.grn, self.down, self.out = nn.Linear(8, 12), GRN(12), nn.Linear(12, 8), conv(8, 2)
        self.gamma = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(self.grn(F.gelu(self.up(y)))) * self.gamma
        return self.out(x + y.permute(0, 3, 1, 2))


@case(images, mutable={"a": 8, "b": 8})
class GatherExcite(nn.Module):
    """In-place operators on results that others read too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = conv(3, 8), conv(8, 8), conv(8, 2)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.a(x))
        y = self.b(x).clone()
        y.mul_(self.scale).add_(0.5)
        y = y * torch.sigmoid(F.avg_pool2d(y, 3, 1, 1))
        return self.out(F.leaky_relu(y, 0.1, inplace=True))
