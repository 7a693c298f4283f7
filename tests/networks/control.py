"""Networks whose code takes turns: modes, flags, several inputs and outputs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from networks.case import case, features, images
from networks.convolutional import conv
from torch import Tensor, nn
from torchvision.ops import StochasticDepth, deform_conv2d


@case(images, mutable={"a": 8, "b": 6, "c": 6})
class DropsPaths(nn.Module):
    """Stochastic depth and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.back = conv(3, 8), conv(8, 6), conv(6, 8)
        self.c, self.back2, self.out = conv(8, 6), conv(6, 8), conv(8, 2)
        self.drop_row, self.drop_batch = StochasticDepth(0.5, "row"), StochasticDepth(0.5, "batch")
        self.drop = nn.Dropout2d(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + self.drop_row(self.back(F.relu(self.b(x))))
        x = x + self.drop_batch(self.back2(self.drop(F.relu(self.c(x)))))
        return self.out(F.dropout(x, 0.2, self.training))


@case(lambda: (images(), images().flip(0)), mutable={"tower.0": 6, "tower.2": 8, "join": 5})
class Siamese(nn.Module):
    """One tower for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.join, self.out = nn.Linear(8, 5), nn.Linear(5, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = self.tower(a), self.tower(b)
        return self.out(F.relu(self.join((a - b).abs() + a * b)))


@case(images, mutable={"a": 6, "c": 4}, refused={"b": "reaches the model's output"})
class DictOutput(nn.Module):
    """A result on the way is returned as well, so that its channels stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = conv(3, 6), conv(6, 8), conv(8, 4), conv(4, 2)

    def forward(self, x: Tensor) -> dict[str, Any]:
        middle = self.b(F.relu(self.a(x)))
        return {"middle": middle, "all": [self.out(self.c(middle)), None], "name": "text"}


@case(images, mutable={"a": 6, "b": 8, "aux.0": 5})
class AuxiliaryHead(nn.Module):
    """A head that runs in train mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = conv(3, 6), conv(6, 8), conv(8, 2)
        self.aux = nn.Sequential(conv(6, 5), nn.BatchNorm2d(5), nn.ReLU(), conv(5, 2))

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.a(x))
        out = self.out(F.relu(self.b(x)))
        return (out, self.aux(x)) if self.training else out


@case(images, mutable={"stages.0": 4, "stages.1": 6, "stages.2": 8})
class DeepSupervision(nn.Module):
    """Every stage has a head, and all are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 4), conv(4, 6), conv(6, 8)])
        self.heads = nn.ModuleList([nn.Linear(4, 3), nn.Linear(6, 3), nn.Linear(8, 3)])

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        found = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = F.relu(stage(x))
            found.append(head(x.mean((2, 3))))
        return torch.stack(found).mean(0), found


@case(images, mutable={"a": 6, "small": 5}, refused={"large": "not used in the forward pass"})
class Switched(nn.Module):
    """A flag says which branch runs; the other isn't seen."""

    def __init__(self) -> None:
        super().__init__()
        self.use_large = False
        self.a, self.small, self.large, self.out = conv(3, 6), conv(6, 5), conv(6, 5, 5), conv(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.out(F.relu(self.large(x) if self.use_large else self.small(x)))


@case(images, mutable={"a": 6}, refused={"b": "value is read by Python|item|fails|something else"})
class DependsOnValues(nn.Module):
    """Python code looks at the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = conv(3, 6), conv(6, 8), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.relu(self.a(x)))
        return self.out(x * 2 if float(x.isfinite().sum()) > 640 else x * 3)


@case(
    images,
    mutable={"first": 4, "c": 4},
    refused={"a": "deform_conv2d", "offset": "deform_conv2d", "b": "deform_conv2d"},
)
class Deformable(nn.Module):
    """An operator from an extension."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.offset = conv(3, 4), conv(4, 6), conv(6, 18)
        self.b, self.c, self.out = conv(6, 8), conv(8, 4), conv(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(F.relu(self.first(x))))
        x = deform_conv2d(x, self.offset(x), self.b.weight, self.b.bias, padding=1)
        return self.out(F.relu(self.c(x)))


@case(features, mutable={"layers.0": 6, "layers.2": 8})
class HookedAndFrozen(nn.Module):
    """Hooks that change results, frozen weights, a module that stands in two places."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU(inplace=True)
        self.layers = nn.Sequential(nn.Linear(5, 6), act, nn.Linear(6, 8), act, nn.Linear(8, 3))
        self.layers[0].weight.requires_grad_(False)
        self.layers[2].register_forward_hook(_twice)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _twice(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2


@case(features, mutable={"a": 8, "b": 6})
class NormsOfVectors(nn.Module):
    """Batch norm over vectors, and a mean over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.out = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        x = self.b(x - x.mean(0, keepdim=True))
        return self.out(x.tanh() + x.sigmoid())
