"""Networks with sizes in their code and in their attributes."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from networks.case import case, features, images
from networks.convolutional import conv
from torch import Tensor, nn

WRONG = r"fails|something else"


class Flattening(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.pool, self.out = conv(3, 6), nn.AdaptiveAvgPool2d(4), nn.Linear(96, 5)

    def flatten(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.flatten(self.pool(F.relu(self.a(x)))))


@case(images, mutable={"a": 6})
class FlattenFree(Flattening):
    """Each channel is 16 inputs of the linear layer."""


@case(images, mutable={}, refused={"a": WRONG})
class FlattenByNumber(Flattening):
    def flatten(self, x: Tensor) -> Tensor:
        return x.view(-1, 6 * 4 * 4)


@case(images, mutable={"a": 6})
class FlattenByAttribute(Flattening):
    """The attribute counts channels times places."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = 6 * 4 * 4

    def flatten(self, x: Tensor) -> Tensor:
        return x.view(-1, self.flat)


@case(images, mutable={}, refused={"a": WRONG})
class FlattenByConfig(Flattening):
    """A number in an object that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(flat=6 * 4 * 4)

    def flatten(self, x: Tensor) -> Tensor:
        return x.view(-1, self.config.flat)


@case(images, mutable={"a": 6})
class FlattenByModule(Flattening):
    """The layer that reads it knows the size."""

    def flatten(self, x: Tensor) -> Tensor:
        return x.view(-1, self.out.in_features)


@case(images, mutable={"0": 6, "3": 8, "5": 5})
class FlattenModules(nn.Sequential):
    """``Flatten`` and ``Unflatten`` as modules; the second has its sizes as an attribute."""

    def __init__(self) -> None:
        super().__init__(
            conv(3, 6), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 32), nn.Unflatten(1, (8, 2, 2)),
            conv(8, 5), nn.ReLU(), conv(5, 2),
        )  # fmt: skip


@case(images, mutable={"a": 4, "a[4]": 6, "a[10]": 8})
class SplitByList(nn.Module):
    """Cuts its channels apart by a list of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.splits = [4, 6, 8]
        self.a, self.out = conv(3, 18), nn.ModuleList([conv(n, 2) for n in self.splits])

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(self.a(x), self.splits, 1)
        return sum(layer(F.relu(piece)) for layer, piece in zip(self.out, pieces, strict=True))


@case(images, mutable={"inner.0": 8, "b": 6})
class SizeOnTheParent(nn.Module):
    """A child's result is viewed by an attribute of the parent."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.inner = 8, nn.Sequential(conv(3, 8), nn.ReLU())
        self.b, self.out = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x).permute(0, 2, 3, 1).reshape(-1, self.dim)
        return self.out(F.relu(self.b(x)))


class Child(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dim, self.layer = 8, conv(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x))


@case(images, mutable={"child.layer": 8, "b": 6})
class SizeOnTheChild(nn.Module):
    """The attribute belongs to a module inside the one that views."""

    def __init__(self) -> None:
        super().__init__()
        self.child, self.b, self.out = Child(), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.child(x).permute(0, 2, 3, 1).reshape(-1, self.child.dim)
        return self.out(F.relu(self.b(x)))


@case(features, mutable={"a": 6, "b": 6})
class SameNumberByChance(nn.Module):
    """``steps`` has the value of a width that it has nothing to do with."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.dim = 6, 6
        self.a, self.b, self.out = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x)).view(-1, self.dim)
        for _ in range(self.steps):
            x = x * 0.9 + 0.1
        return self.out(self.b(x).tanh() / self.steps)


@case(features, mutable={"a": 6}, refused={"b": "something else|fails"})
class MeaningOfANumber(nn.Module):
    """The one attribute is a width and a divisor: following the first makes the second wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 7
        self.a, self.b, self.out = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.relu(self.a(x))).view(-1, self.dim)
        return self.out(x / self.dim)


@case(images, mutable={"a": 8, "b": 4}, refused={"c": WRONG, "c[3]": WRONG, "c[4]": WRONG})
class SlicesByNumber(nn.Module):
    """A slice that starts at a number, or takes every other channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 4), conv(4, 12)
        self.out, self.out2 = conv(6, 2), conv(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(F.relu(self.b(F.relu(self.a(x)))))
        return self.out(x[:, ::2]) + self.out2(x[:, 3:])


@case(images, mutable={"a": 8}, refused={"b": WRONG})
class BranchesOnWidth(nn.Module):
    """Does something else where it is narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = conv(3, 8), conv(8, 6), conv(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.relu(self.a(x)))
        return self.out(x / x.shape[1])
