"""The Taylor criterion against gradients that are multiplied out channel by channel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_channels import build_criterion
from tests.criteria.nets import FIRST, SECOND, batch, chain, close, prepared

TENSORS = {
    FIRST: lambda own, i: [
        own["0.weight"][i],
        own["0.bias"][i],
        own["1.weight"][i],
        own["1.bias"][i],
        own["3.weight"][:, i],
    ],
    SECOND: lambda own, i: [own["3.weight"][i], own["3.bias"][i], own["5.weight"][:, 4 * i : 4 * i + 4]],
}


def loss_of(net: nn.Module, x: Tensor) -> Tensor:
    return net(x).square().mean()


def products(inputs: list[Tensor], name: str, count: int) -> list[list[list[Tensor]]]:
    """Gradient times weight of each pass, channel and tensor, from a plain net."""
    net = chain()
    found = []
    for x in inputs:
        net.zero_grad()
        loss_of(net, x).backward()
        own = {key: parameter.detach() * parameter.grad for key, parameter in net.named_parameters()}
        found.append([TENSORS[name](own, i) for i in range(count)])
    return found


def collected(inputs: list[Tensor], **arguments: Any) -> dict[str, Tensor]:
    net = chain()
    _, units = prepared(net, batch())
    criterion = build_criterion({"type": "taylor", "normalizer": None, **arguments})
    criterion.start(net, list(units.values()))  # type: ignore[attr-defined]
    assert not criterion.ready  # type: ignore[attr-defined]
    for x in inputs:
        loss_of(net, x).backward()  # the gradients pile up: each pass must count by itself
        criterion.after_backward()  # type: ignore[attr-defined]
    criterion.stop()  # type: ignore[attr-defined]
    assert criterion.ready  # type: ignore[attr-defined]
    return {name: criterion(unit) for name, unit in units.items()}


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "max", "first"])
def test_by_hand(joint: bool, reduction: str) -> None:
    inputs = [batch(), batch() * 2 + 1, batch(3) - 1]
    scores = collected(inputs, joint=joint, reduction=reduction)
    for name, score in scores.items():
        passes = products(inputs, name, len(score))
        expected = []
        for i in range(len(score)):
            rows = [0.0] * len(passes[0][i])
            for own in passes:
                for t, product in enumerate(own[i]):
                    rows[t] += float(product.sum() ** 2 if joint else product.square().sum()) / len(passes)
            expected.append({"sum": sum(rows), "max": max(rows), "first": rows[0]}[reduction])
        assert close(score, expected)


def test_a_gate_on_the_channel_has_the_joint_gradient() -> None:
    """The gradient of a factor on a channel is the sum of gradient times weight over what reads it."""
    net, gate = chain(), torch.ones(3, dtype=torch.float64, requires_grad=True)
    hidden = net[:3](batch()) * gate[:, None, None]
    net[3:](hidden).square().mean().backward()
    assert gate.grad is not None
    scores = collected([batch()], joint=True, tensors=["inputs"])
    assert torch.allclose(scores[FIRST], gate.grad.square(), rtol=1e-10)


def test_frozen_weights_give_nothing_and_the_others_count() -> None:
    net = chain()
    _, units = prepared(net, batch())
    net[3].weight.requires_grad_(False)
    criterion: Any = build_criterion({"type": "taylor", "normalizer": None, "tensors": ["outputs", "inputs"]})
    criterion.start(net, list(units.values()))
    loss_of(net, batch()).backward()
    criterion.after_backward()
    assert net[0].weight.grad is not None
    expected = (net[0].weight.detach() * net[0].weight.grad).square().sum((1, 2, 3))
    assert torch.allclose(criterion(units[FIRST]), expected, rtol=1e-10)
