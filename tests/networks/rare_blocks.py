"""Blocks over (B, C, H, W) that use their weights, or lay out their results, in uncommon ways."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from networks.building import Built, block, widths
from torch import Tensor, nn

__all__: list[str] = []


class Written(nn.Module):
    """Writes two results into a new tensor."""

    def __init__(self, channels: int, left: int, right: int, start: str) -> None:
        super().__init__()
        self.left, self.right, self.start = nn.Conv2d(channels, left, 1), nn.Conv2d(channels, right, 1), start

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        first = left.shape[1] if self.start == "shape" else self.left.out_channels
        result = x.new_zeros(x.shape[0], first + right.shape[1], *x.shape[2:])
        result[:, :first] = left
        result[:, first:] = right
        return result


@block("maps", widths(), widths(), st.sampled_from(["shape", "attribute"]))
def written(channels: int, left: int, right: int, start: str) -> Built:
    return Built(Written(channels, left, right, start), left + right, outer=("left", "right"))


class AlongChannels(nn.Module):
    """A convolution along the axis of the channels weighs them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(x.mean((2, 3)).unsqueeze(1))
        return x * torch.sigmoid(y.transpose(1, 2).unsqueeze(-1))


@block("maps", st.sampled_from([1, 3]))
def along_channels(channels: int, size: int) -> Built:
    return Built(AlongChannels(size), channels)


@block("maps", widths(), st.sampled_from(["each", "one"]))
def group_norm(channels: int, width: int, kind: str) -> Built:
    """As many groups as channels, or one."""
    layer = nn.GroupNorm(width if kind == "each" else 1, width)
    return Built(nn.Sequential(nn.Conv2d(channels, width, 1), layer), width, outer=("0",))


class Unflattened(nn.Module):
    """A linear layer gives a map."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.line, self.conv = nn.Linear(channels, width * 4), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.line(x.mean((2, 3)))
        return F.interpolate(self.conv(y.reshape(y.shape[0], -1, 2, 2)), size=x.shape[2:])


@block("maps", widths())
def unflattened(channels: int, width: int) -> Built:
    return Built(Unflattened(channels, width), width, inner=("line",), outer=("conv",))


class BareMatrix(nn.Module):
    """A parameter multiplies the channels."""

    def __init__(self, channels: int, width: int, kind: str) -> None:
        super().__init__()
        self.matrix, self.kind = nn.Parameter(torch.rand(channels, width)), kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "einsum":
            return torch.einsum("bchw,cd->bdhw", x, self.matrix)
        if self.kind == "matmul":
            return (x.permute(0, 2, 3, 1) @ self.matrix).permute(0, 3, 1, 2)
        return F.conv2d(x, self.matrix.t()[:, :, None, None])


@block("maps", widths(), st.sampled_from(["einsum", "matmul", "conv"]))
def bare_matrix(channels: int, width: int, kind: str) -> Built:
    return Built(BareMatrix(channels, width, kind), width, reads=(("matrix", 0),))


class StandardisedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 0.1).sqrt()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@block("maps", widths())
def standardised(channels: int, width: int) -> Built:
    return Built(StandardisedConv(channels, width, 3, padding=1), width, outer=("",))


class Twice(nn.Module):
    """One module for the map and its mirror image."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(self.conv(x), self.conv(x.flip(-1)).flip(-1))


@block("maps", widths())
def twice(channels: int, width: int) -> Built:
    return Built(Twice(channels, width), width, outer=("conv.0",))


class Patches(nn.Module):
    """Patches of two by two as channels."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.line = nn.Linear(4 * channels, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.line(F.unfold(x, 2, padding=0, stride=2).transpose(1, 2)).transpose(1, 2)
        return F.interpolate(y.reshape(*y.shape[:2], 2, 2), size=x.shape[2:])


@block("maps", widths())
def patches(channels: int, width: int) -> Built:
    return Built(Patches(channels, width), width, outer=("line",))
