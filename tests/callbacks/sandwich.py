"""Sandwich training of a tiny net, and the same written out in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_channels import ChannelPruning
from lightning_channels.samplers import passes_of
from tests.callbacks.nets import Classifier, conv_net, loader, trainer

SANDWICH = {"type": "sandwich", "n_random": 2, "ratios": [0.25, 0.5, 0.75, 1.0]}


class Net(Classifier):
    """Without dropout, so that nothing but the widths is random."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        super().__init__(conv_net(dropout=0.0))


def cut(tensor: Tensor, *widths: int) -> Tensor:
    """The first so many along each dim; a parameter as it is."""
    return tensor if tensor.shape[: len(widths)] == widths else tensor[tuple(slice(width) for width in widths)]


class ByHand:
    """The same training with slices, written out.

    Args:
        term: The loss of a narrow pass, of its outputs, the widest one's and the batch.
        mean: Whether losses are averaged.
        accumulate: Batches to a step.
        clip: Called with the parameters before each step.
        autocast: Makes the context of each forward pass.
        scaler: Scales losses.
    """

    def __init__(
        self,
        term: Callable[[Tensor, Tensor, Any], Tensor],
        mean: bool = False,
        accumulate: int = 1,
        clip: Callable[[list[Tensor]], Any] = lambda parameters: None,
        autocast: Callable[[], Any] = nullcontext,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.net = Net().net.train()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        self.term, self.mean, self.accumulate, self.clip = term, mean, accumulate, clip
        self.autocast, self.scaler = autocast, scaler or torch.amp.GradScaler("cpu", enabled=False)

    def forward(self, x: Tensor, widths: list[int]) -> Tensor:
        first, second = widths
        conv, norm, _, deep, deep_norm, *_, head = self.net
        x = F.conv2d(x, cut(conv.weight, first), cut(conv.bias, first), padding=1)
        x = self.norm(norm, x, first).relu()
        x = F.conv2d(x, cut(deep.weight, second, first), cut(deep.bias, second), padding=1)
        x = self.norm(deep_norm, x, second).relu()
        return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), cut(head.weight, 4, second), head.bias)

    @staticmethod
    def norm(norm: nn.Module, x: Tensor, width: int) -> Tensor:
        mean, var = norm.running_mean[:width], norm.running_var[:width]
        return F.batch_norm(x, mean, var, cut(norm.weight, width), cut(norm.bias, width), training=True)

    def train(self, passes: Callable[[int, int], list[list[int]]], epochs: int, batches: list[Any]) -> nn.Module:
        for epoch in range(epochs):
            for number, batch in enumerate(batches):
                widths = passes(epoch, number)
                with self.autocast():
                    widest = self.forward(batch[0], widths[0])
                    losses = [F.cross_entropy(widest, batch[1])]
                    losses += [self.term(self.forward(batch[0], w), widest.detach(), batch) for w in widths[1:]]
                loss = torch.stack([own.float() for own in losses]).sum() / (len(losses) if self.mean else 1)
                self.scaler.scale(loss / self.accumulate).backward()
                if (number + 1) % self.accumulate == 0 or number + 1 == len(batches):
                    self.scaler.unscale_(self.optimizer) if self.scaler.is_enabled() else None
                    self.clip(list(self.net.parameters()))
                    self.scaler.step(self.optimizer)
                    self.scaler.update()
                    self.optimizer.zero_grad()
        return self.net


def soft(narrow: Tensor, widest: Tensor, batch: Any) -> Tensor:
    """KL, by its definition."""
    p, q = widest.float().softmax(1), narrow.float().softmax(1)
    return (p * (p.log() - q.log())).sum(1).mean()


def rounded_alike(narrow: Tensor, widest: Tensor, batch: Any) -> Tensor:
    """KL as one writes it: in half precision the smallest difference is rounded up to a visible one."""
    own, wanted = F.log_softmax(narrow.float(), 1), F.log_softmax(widest.float(), 1)
    return F.kl_div(own, wanted, reduction="none", log_target=True).sum(1).mean()


def tempered(narrow: Tensor, widest: Tensor, batch: Any) -> Tensor:
    return 9 * soft(narrow / 3, widest / 3, batch)


def hard(narrow: Tensor, widest: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(narrow, batch[1])


def both(narrow: Tensor, widest: Tensor, batch: Any) -> Tensor:
    return 0.5 * soft(narrow, widest, batch) + 2.0 * hard(narrow, widest, batch)


def squares(narrow: Tensor, widest: Tensor, batch: Any = None) -> Tensor:
    return (narrow - widest).square().mean()


def fit(path: Path, module: L.LightningModule | None = None, epochs: int = 2, **kwargs: Any) -> tuple[Any, Any]:
    names = ("distillation", "memory", "sampler", "log_resources", "validate")
    options = {name: kwargs.pop(name) for name in names if name in kwargs}
    module = module or Net()
    pruning = ChannelPruning(**{"sampler": SANDWICH, "module": "net", "seed": 4, **options})
    trainer(path, pruning, *kwargs.pop("callbacks", ()), max_epochs=epochs, **kwargs).fit(module, loader(shuffle=False))
    return module, pruning


def drawn(pruning: ChannelPruning) -> Callable[[int, int], list[list[int]]]:
    """Widths of the passes of a step."""

    def passes(epoch: int, number: int) -> list[list[int]]:
        found = passes_of(pruning.sampler, pruning.mutator, seed=4, epoch=epoch, batch_idx=number)
        return [[int(width) for width in choices.values()] for choices in found]

    return passes


def check(module: Any, expected: nn.Module, relative: float = 1e-6) -> None:
    own = module.net.state_dict()
    for name, value in expected.state_dict().items():
        if "tracked" not in name:
            error = float((own[name] - value).abs().max() / value.abs().max().clamp_min(1e-12))
            assert error <= relative, (name, error)


BATCHES = list(loader(shuffle=False))


class Plain(Net):
    """Without batch norm, so that two halves of a batch have the gradients of the whole, on average."""

    def __init__(self) -> None:
        super().__init__()
        self.net[1], self.net[4] = nn.Identity(), nn.Identity()


class PlainByHand(ByHand):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.net = Plain().net
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)

    @staticmethod
    def norm(norm: nn.Module, x: Tensor, width: int) -> Tensor:
        return x
