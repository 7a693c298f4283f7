"""Networks that the coverage tool is tried on, in processes of its own."""

from __future__ import annotations

import os
import signal
import time

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """Right at every width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 12, 3, padding=1)
        self.drop = nn.Dropout()
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.inner(torch.relu(self.norm(self.stem(x)))))
        return self.head(self.drop(x.mean((2, 3))))


class Liar(Tiny):
    """Computes something else as soon as it is narrow, without an error."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out * 1.01 if self.inner.weight.shape[0] < 12 else out


def tiny() -> tuple[nn.Module, Tensor]:
    return Tiny(), torch.randn(1, 3, 8, 8)


def liar() -> tuple[nn.Module, Tensor]:
    return Liar(), torch.randn(1, 3, 8, 8)


def sleeper() -> tuple[nn.Module, Tensor]:
    time.sleep(300)
    return tiny()


def dies() -> tuple[nn.Module, Tensor]:
    os.kill(os.getpid(), signal.SIGKILL)
    return tiny()


def greedy() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(40_000, 40_000)), torch.randn(1, 40_000)  # 6.4 GB
