"""Networks of convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from networks.case import case, images
from torch import Tensor, nn


def conv(inputs: int, outputs: int, size: int = 3, **kwargs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **kwargs)


@case(images, mutable={"down": 8, "deep": 12, "up": 8, "merge": (8, 2)})
class UNet(nn.Module):
    """A skip connection that is concatenated, a transposed convolution, a group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = conv(3, 8), nn.Conv2d(8, 12, 3, 2, 1)
        self.up, self.merge, self.norm = nn.ConvTranspose2d(12, 8, 2, 2), conv(16, 8), nn.GroupNorm(2, 8)
        self.head = conv(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        up = self.up(F.relu(self.deep(skip)))
        return self.head(F.relu(self.norm(self.merge(torch.cat([skip, up], 1)))))


@case(images, mutable={"first": 8, "grow": 6, "last": 10})
class SuperResolution(nn.Module):
    """``PixelShuffle`` makes one channel of four, so that four stay or go together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grow, self.shuffle = conv(3, 8), conv(8, 24), nn.PixelShuffle(2)
        self.last, self.act, self.out = conv(6, 10), nn.PReLU(10), conv(10, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shuffle(self.grow(F.relu(self.first(x))))
        return self.shuffle(self.out(self.act(self.last(x))))


@case(images, mutable={"first": 6, "down": 6})
class Unshuffle(nn.Module):
    """``PixelUnshuffle`` makes four channels of one, next to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unshuffle, self.down, self.out = conv(3, 6), nn.PixelUnshuffle(2), conv(24, 6), conv(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.down(self.unshuffle(self.first(x)))))


@case(images, mutable={"first": 8})
class SharedConvolution(nn.Module):
    """One convolution three times, each time with another norm: its inputs are its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.out = conv(3, 8), conv(8, 8), conv(8, 4)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for norm in self.norms:
            x = F.relu(norm(self.shared(x)))
        return self.out(x)


@case(lambda: images().unsqueeze(2), mutable={"a": (8, 4), "b": (8, 4), "c": 6})
class OneAndThreeDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(3, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm3d(8)
        self.c, self.out = nn.Conv1d(8, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.b(F.relu(self.a(x)))))
        return self.out(self.c(x.flatten(2)).mean(2))


@case(images, mutable={"reduce": 4, "convs.2": 4})
class Res2NetBlock(nn.Module):
    """Splits by an attribute; each piece is added to the result of the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.reduce, self.out = conv(3, 16, 1), conv(16, 4, 1)
        self.convs = nn.ModuleList([conv(4, 4) for _ in range(3)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(4) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(self.reduce(x), self.width, 1)
        done, last = [], None
        for piece, convolution, norm in zip(pieces, self.convs, self.norms, strict=False):
            last = F.relu(norm(convolution(piece if last is None else last + piece)))
            done.append(last)
        return self.out(torch.cat([*done, pieces[3]], 1))


@case(images, mutable={}, refused={"reduce": r"fails|something else"})
class SplitByNumber(nn.Module):
    """A number in the code can't follow a width."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.out = conv(3, 16, 1), conv(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = torch.split(self.reduce(x), 4, 1)
        return self.out(a * b + c * d)


@case(images, mutable={"ghost.primary": 4})
class GhostEven(nn.Module):
    """Cuts what is too much off by an attribute; here nothing is."""

    def __init__(self, out: int = 8) -> None:
        super().__init__()
        self.ghost, self.out = Ghost(3, 4, out), conv(out, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.ghost(x))


class Ghost(nn.Module):
    def __init__(self, inputs: int, inner: int, out: int) -> None:
        super().__init__()
        self.out_chs = out
        self.primary, self.cheap = conv(inputs, inner, 1), conv(inner, inner, groups=inner)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.primary(x))
        return torch.cat([x, F.relu(self.cheap(x))], 1)[:, : self.out_chs]


@case(images, mutable={"ghost.primary": 4})
class GhostOdd(GhostEven):
    """One channel of the second half is cut off: how many are left depends on which are kept."""

    def __init__(self) -> None:
        super().__init__(7)


@case(images, mutable={"a": 8})
class GatedLinearUnit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = conv(3, 16), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.glu(self.a(x), 1))


@case(images, mutable={"a": 8})
class ChunkGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.depthwise, self.out = conv(3, 16), conv(16, 16, groups=16), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.depthwise(self.a(x)).chunk(2, dim=1)
        return self.out(F.gelu(a) * b)


@case(images, mutable={"first": 6, "right.0": 6})
class ShuffleBlock(nn.Module):
    """Half of the channels pass, half are convolved, and both are interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = conv(3, 12), conv(12, 4)
        self.right = nn.Sequential(conv(6, 6, 1), nn.ReLU(inplace=True), conv(6, 6, groups=6), conv(6, 6, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, 1)
        x = torch.cat([left, self.right(right)], 1)
        b, c, h, w = x.shape
        return self.out(x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))


@case(images, mutable={"a": (16, 2), "b": (8, 2), "c": (16, 2)})
class GroupsAndShuffle(nn.Module):
    """ShuffleNet's first version: grouped convolutions with a shuffle between them, which ties more of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = conv(3, 16), conv(16, 2)
        self.b, self.c = conv(16, 16, 1, groups=2), conv(16, 16, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.out(F.relu(self.c(nn.functional.channel_shuffle(x, 2))))


@case(images, mutable={"a": 4, "b": 8, "c": (8, 4), "d": 6})
class GroupKinds(nn.Module):
    """Depthwise with a multiplier, as many outputs as groups, grouped and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.multiplied, self.b = conv(3, 4), conv(4, 8, groups=4), conv(8, 8)
        self.depthwise, self.c = nn.ConvTranspose2d(8, 8, 2, 2, groups=8), conv(8, 8)
        self.grouped, self.d = nn.ConvTranspose2d(8, 4, 2, 2, groups=4), conv(4, 6)
        self.out = conv(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.relu(self.multiplied(self.a(x))))
        x = self.grouped(F.relu(self.c(F.relu(self.depthwise(x)))))
        return self.out(self.d(F.relu(x)))


@case(images, mutable={"first": 6, "layers.0": 4, "layers.1": 4, "layers.2": 4, "last": 8})
class DenseBlock(nn.Module):
    """Every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.out = conv(3, 6), conv(18, 8, 1), conv(8, 2)
        self.layers = nn.ModuleList([conv(6 + 4 * k, 4) for k in range(3)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(6 + 4 * k) for k in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.first(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            seen.append(layer(F.relu(norm(torch.cat(seen, 1)))))
        return self.out(F.relu(self.last(torch.cat(seen, 1))))


@case(images, mutable={"a": 8})
class RepVGGBlock(nn.Module):
    """Three branches of which one has no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = conv(3, 8), nn.Sequential(conv(8, 8), nn.BatchNorm2d(8)), conv(8, 2)
        self.one = nn.Sequential(conv(8, 8, 1), nn.BatchNorm2d(8))
        self.identity = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(F.relu(self.b(x) + self.one(x) + self.identity(x)))


@case(images, mutable={"a": 6, "one.0": 4, "three.0": 3, "three.1": 5, "pool.1": 2, "last": 8})
class InceptionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.last, self.out = conv(3, 6), conv(11, 8), nn.Linear(8, 3)
        self.one, self.three = nn.Sequential(conv(6, 4, 1)), nn.Sequential(conv(6, 3, 1), conv(3, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(6, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = self.last(torch.cat([branch(x) for branch in (self.one, self.three, self.pool)], 1))
        return self.out(F.adaptive_avg_pool2d(F.hardswish(x), 1).flatten(1))


@case(images, mutable={"a": 6, "b": 8, "side_a": 5, "smooth": 4})
class FeaturePyramid(nn.Module):
    """Two scales that are added after resizing, each with its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 6), nn.Conv2d(6, 8, 3, 2, 1)
        self.side_a, self.side_b = conv(6, 5, 1), conv(8, 5, 1)
        self.smooth, self.head = conv(5, 4), conv(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = F.relu(self.a(x))
        b = self.side_b(F.relu(self.b(a)))
        a = self.side_a(a) + F.interpolate(b, size=a.shape[-2:], mode="nearest")
        return {"fine": self.head(self.smooth(a)), "coarse": self.head(self.smooth(b))}


@case(images, mutable={"a": 6, "b": 8})
class SegNet(nn.Module):
    """Unpools to the places that pooling came from, channel by channel: those of ``c`` are those of ``a``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = conv(3, 6), conv(6, 8), conv(8, 6), conv(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x, places = F.max_pool2d(F.relu(self.a(x)), 2, return_indices=True)
        x = self.c(F.relu(self.b(x)))
        return self.out(F.max_unpool2d(x, places, 2))


@case(images, mutable={"a": 8, "dense": 4, "reduce": 6, "grow": 5})
class DualPath(nn.Module):
    """One part of the channels is added, the other concatenated; cut apart by attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.added = 8
        self.a, self.reduce, self.expand = conv(3, 8), conv(12, 6, 1), conv(6, 8, 1)
        self.dense, self.grow, self.out = conv(3, 4), conv(6, 5, 1), conv(17, 2)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.a(x), self.dense(x)], 1)
        residual, dense = joined[:, : self.added], joined[:, self.added :]
        x = F.relu(self.reduce(joined))
        return self.out(torch.cat([residual + self.expand(x), dense, self.grow(x)], 1))


class StandardisedConv(nn.Conv2d):
    """Standardises its weight at each call."""

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.weight.mean((1, 2, 3), keepdim=True), self.weight.var((1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (var + 1e-5).sqrt()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@case(images, mutable={"a": 6, "b": 8})
class WeightStandardised(nn.Module):
    def __init__(self, kind: type[nn.Conv2d] = StandardisedConv) -> None:
        super().__init__()
        self.a, self.b, self.out = kind(3, 6, 3), kind(6, 8, 3), kind(8, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(F.relu(self.a(x)))))


class BatchNormStandardisedConv(nn.Conv2d):
    """Standardises by way of a batch norm, with its number of filters as an argument of a view."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-5).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@case(images, mutable={"a": 6, "b": 8})
class WeightStandardisedByBatchNorm(WeightStandardised):
    def __init__(self) -> None:
        super().__init__(BatchNormStandardisedConv)


@case(images, mutable={"a": 8, "b": (8, 4), "c": 8, "d": 6, "e": 6})
class EveryGroupNorm(nn.Module):
    """One group, many small groups, one channel a group, an instance norm with and without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.one, self.b, self.many = conv(3, 8), nn.GroupNorm(1, 8), conv(8, 8), nn.GroupNorm(4, 8)
        self.c, self.each, self.d, self.bare = conv(8, 8), nn.GroupNorm(8, 8), conv(8, 6), nn.InstanceNorm2d(6)
        self.e, self.instance, self.out = conv(6, 6), nn.InstanceNorm2d(6, affine=True), conv(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.many(self.b(F.relu(self.one(self.a(x)))))
        x = self.bare(self.d(F.relu(self.each(self.c(F.relu(x))))))
        return self.out(F.relu(self.instance(self.e(F.relu(x)))))


@case(images, mutable={"a": 6}, refused={"b": "local_response|spatial|rule|channels"})
class LocalResponse(nn.Module):
    """A window that slides over the channels: it can't be said which channels it should see."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.out = conv(3, 6), conv(6, 8), nn.LocalResponseNorm(3), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.b(F.relu(self.a(x)))))


@case(images, mutable={"a": 6, "b": 8, "c": 4})
class Checkpointed(nn.Module):
    """Keeps no activations of its middle part."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = conv(3, 6), conv(6, 8), conv(8, 4), conv(4, 2)

    def _middle(self, x: Tensor) -> Tensor:
        return F.relu(self.c(F.relu(self.b(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.utils.checkpoint.checkpoint(self._middle, self.a(x), use_reentrant=False))
