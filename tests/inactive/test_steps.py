"""What is inactive in a step stays bit by bit as it was; what is active is stepped as if it were all there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_channels.inactive import InactiveSlices
from tests.inactive.nets import WIDTHS, Kept, batch, keep, net, parameters, prepared, step


class ByHand:
    """Full tensors and states, of which a step cuts the active parts; a step sees nothing else."""

    def __init__(self) -> None:
        self.full = {name: tensor.detach().clone() for name, tensor in net().named_parameters()}
        self.state: dict[str, dict[str, Tensor]] = {name: {} for name in self.full}
        self.steps = 0

    def cut(self, tensor: Tensor, index: tuple[Tensor, ...]) -> Tensor:
        return tensor[index].clone()

    def index(self, kept: Kept) -> dict[str, tuple[Tensor, ...]]:
        a, b = (torch.tensor(channels) for channels in kept)
        every = {size: torch.arange(size) for size in (3, 5)}
        return {
            "0.weight": (a[:, None], every[5][None]),
            "0.bias": (a,),
            "2.weight": (b[:, None], a[None]),
            "2.bias": (b,),
            "4.weight": (every[3][:, None], b[None]),
            "4.bias": (every[3],),
        }

    def leaves(self, kept: Kept) -> dict[str, Tensor]:
        return {name: self.cut(self.full[name], at).requires_grad_() for name, at in self.index(kept).items()}

    def loss(self, x: Tensor, p: dict[str, Tensor]) -> Tensor:
        x = F.linear(x, p["0.weight"], p["0.bias"]).tanh()
        x = F.linear(x, p["2.weight"], p["2.bias"]).tanh()
        return F.linear(x, p["4.weight"], p["4.bias"]).square().sum()

    def paste(self, name: str, at: tuple[Tensor, ...], value: Tensor, state: dict[str, Tensor]) -> None:
        self.full[name][at] = value.detach()
        for key, part in state.items():
            self.state[name].setdefault(key, torch.zeros_like(self.full[name]))[at] = part

    def step_with_torch(self, x: Tensor, kept: Kept, build: Callable[..., torch.optim.Optimizer]) -> None:
        leaves = self.leaves(kept)
        optimizer = build(list(leaves.values()))
        for name, at in self.index(kept).items():
            if self.state[name]:
                optimizer.state[leaves[name]] = {key: self.cut(full, at) for key, full in self.state[name].items()}
        self.loss(x, leaves).backward()
        optimizer.step()
        for name, at in self.index(kept).items():
            state = {k: v for k, v in optimizer.state[leaves[name]].items() if isinstance(v, Tensor)}
            self.paste(name, at, leaves[name], state)

    def step_adam(
        self, x: Tensor, kept: Kept, lr: float, wd: float, amsgrad: bool, decoupled: bool, eps: float = 1e-8
    ) -> None:
        """Algorithm 1 of the Adam paper, with the step count of the whole parameter."""
        leaves = self.leaves(kept)
        self.loss(x, leaves).backward()
        self.steps += 1
        for name, at in self.index(kept).items():
            value, grad = leaves[name].detach(), leaves[name].grad
            assert grad is not None
            old = {
                key: self.cut(self.state[name].get(key, torch.zeros_like(self.full[name])), at)
                for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
            }
            value = value - lr * wd * value if decoupled else value
            grad = grad if decoupled else grad + wd * value
            m = 0.9 * old["exp_avg"] + 0.1 * grad
            v = 0.999 * old["exp_avg_sq"] + 0.001 * grad * grad
            largest = torch.maximum(old["max_exp_avg_sq"], v)
            m_hat = m / (1 - 0.9**self.steps)
            v_hat = (largest if amsgrad else v) / (1 - 0.999**self.steps)
            state = {"exp_avg": m, "exp_avg_sq": v, **({"max_exp_avg_sq": largest} if amsgrad else {})}
            self.paste(name, at, value - lr * m_hat / (v_hat.sqrt() + eps), state)

    def check(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, parameter in parameters(model).items():
            torch.testing.assert_close(parameter.detach(), self.full[name], rtol=0, atol=1e-12)
            for key, full in self.state[name].items():
                torch.testing.assert_close(optimizer.state[parameter][key], full, rtol=0, atol=1e-12)


SGD = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "momentum": {"momentum": 0.9, "weight_decay": 0.1},
    "nesterov": {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    "maximize": {"momentum": 0.9, "weight_decay": 0.1, "maximize": True},
    "foreach": {"momentum": 0.9, "weight_decay": 0.1, "foreach": True},
    "fused": {"momentum": 0.9, "weight_decay": 0.1, "fused": True},
}


@pytest.mark.parametrize("name", SGD)
def test_sgd_steps_the_active_part_alone(name: str) -> None:
    def build(params: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.01, **SGD[name])

    model, twin = net(), ByHand()
    mutator = prepared(model)
    optimizer, slices = build(model.parameters()), InactiveSlices(model)
    for number, kept in enumerate(WIDTHS * 2):
        keep(mutator, kept)
        step(model, slices, optimizer, batch(number))
        twin.step_with_torch(batch(number), kept, build)
        twin.check(model, optimizer)


def test_dampening_counts_from_the_step_that_made_the_buffer() -> None:
    def build(params: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.01, momentum=0.9, dampening=0.3, weight_decay=0.1)

    model, twin = net(), ByHand()
    mutator = prepared(model)
    optimizer, slices = build(model.parameters()), InactiveSlices(model)
    for number, kept in enumerate(WIDTHS):
        keep(mutator, kept)
        step(model, slices, optimizer, batch(number))
        twin.step_with_torch(batch(number), kept, build)
        twin.check(model, optimizer)


@pytest.mark.parametrize("form", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_steps_the_active_part_alone(cls: type, amsgrad: bool, form: dict[str, bool]) -> None:
    model, twin = net(), ByHand()
    mutator = prepared(model)
    optimizer = cls(model.parameters(), lr=0.01, weight_decay=0.1, amsgrad=amsgrad, **form)
    slices = InactiveSlices(model)
    for number, kept in enumerate(WIDTHS * 2):
        keep(mutator, kept)
        step(model, slices, optimizer, batch(number))
        twin.step_adam(batch(number), kept, 0.01, 0.1, amsgrad, decoupled=cls is torch.optim.AdamW)
        twin.check(model, optimizer)
        assert {int(optimizer.state[p]["step"]) for p in model.parameters()} == {number + 1}


def test_without_it_decay_and_momentum_move_inactive_channels() -> None:
    model = net()
    mutator = prepared(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.1)
    keep(mutator, WIDTHS[0])
    before = parameters(model)["0.weight"].detach().clone()
    model(batch(0)).sum().backward()
    optimizer.step()
    assert not torch.equal(parameters(model)["0.weight"][3:], before[3:])
