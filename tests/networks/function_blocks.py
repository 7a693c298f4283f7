"""Blocks over (B, C, H, W) without channels of their own: functions, layers, and what can't be followed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from networks.building import Built, Lambda, block
from torch import Tensor, nn

__all__: list[str] = []


def _centre(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def _weigh(x: Tensor) -> Tensor:
    return x * x.softmax(1)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x + 0.1, dim=1)


def _places(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.mean(1, keepdim=True) + x.amax(1, keepdim=True))


def _whiten(x: Tensor) -> Tensor:
    return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 0.1).sqrt()


def _flip(x: Tensor) -> Tensor:
    return x.flip(1) + 0.5


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x.tanh()], 1)


def _repeat(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 1)


def _where(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.3 * x).clamp(-2, 2)


def _resize(x: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(x, 2), size=x.shape[-2:], mode="bilinear")


def _more(x: Tensor) -> Tensor:
    return x * 1.5 + 1


def _dropped(x: Tensor) -> Tensor:
    return F.dropout2d(F.dropout(x, 0.2, training=False), 0.0)


FUNCTIONS = {
    "centre": _centre, "weigh": _weigh, "unit": _unit, "places": _places, "whiten": _whiten, "flip": _flip,
    "twice": _twice, "repeat": _repeat, "where": _where, "resize": _resize, "dropped": _dropped,
}  # fmt: skip


@block("maps", st.sampled_from(sorted(FUNCTIONS)))
def function(channels: int, name: str) -> Built:
    return Built(
        Lambda(FUNCTIONS[name]), channels * (2 if name in ("twice", "repeat") else 1), ties=int(name == "flip")
    )


@block("maps", st.sampled_from(["max", "avg", "dropout", "dropout2d", "pad", "prelu", "relu6_"]))
def layer(channels: int, name: str) -> Built:
    made = {
        "max": lambda: nn.MaxPool2d(3, 1, 1), "avg": lambda: nn.AvgPool2d(3, 1, 1), "dropout": lambda: nn.Dropout(0.3),
        "dropout2d": lambda: nn.Dropout2d(0.3), "pad": lambda: nn.ReflectionPad2d(1),
        "prelu": lambda: nn.PReLU(channels), "relu6_": lambda: nn.Sequential(Lambda(_more), nn.ReLU6(inplace=True)),
    }[name]()  # fmt: skip
    return Built(nn.Sequential(made, nn.MaxPool2d(3, 1)) if name == "pad" else made, channels)


def _cumulate(x: Tensor) -> Tensor:
    return x.cumsum(1)


def _by_number(x: Tensor) -> Tensor:
    return x.view(-1, 6, *x.shape[2:]) * torch.arange(1, 7).view(6, 1, 1)


def _rolled(x: Tensor) -> Tensor:
    return x.roll(1, 1)


def _sliced(x: Tensor) -> Tensor:
    return torch.cat([x[:, 2:], x[:, :2]], 1)


def _alternating(x: Tensor) -> Tensor:
    return x[:, ::2] * x[:, 1::2]


def _divided(x: Tensor) -> Tensor:
    return x / x.shape[1]


def _looked_at(x: Tensor) -> Tensor:
    return x * (2 if float(x.detach().mean()) > 0 else 3)


def _sorted(x: Tensor) -> Tensor:
    return x.sort(1).values


def _indexed(x: Tensor) -> Tensor:
    return x[:, torch.tensor([3, 0, 5, 1, 4, 2])]


HARD = {
    "cumulate": _cumulate, "by_number": _by_number, "rolled": _rolled, "sliced": _sliced, "alternating": _alternating,
    "divided": _divided, "looked_at": _looked_at, "sorted": _sorted, "indexed": _indexed,
}  # fmt: skip


@block("maps", st.sampled_from(sorted(HARD)))
def hard(channels: int, name: str) -> Built:
    """What can't be followed, or would run narrow and give something else."""
    made = nn.Sequential(nn.Conv2d(channels, 6, 1), Lambda(HARD[name]))
    return Built(made, 3 if name == "alternating" else 6, pins=True)
