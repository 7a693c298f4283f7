"""The penalty on norms' scales that makes some of them small."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_channels import ConfigError, build_criterion
from lightning_channels.criteria import NormScaleCriterion
from tests.criteria.nets import FIRST, batch, chain, prepared


def penalised(penalty: float, **kwargs: Any) -> tuple[nn.Sequential, Any, Any]:
    net = chain()
    _, units = prepared(net, batch())
    criterion: Any = build_criterion({"type": "bn_scale", "penalty": penalty, "normalizer": None, **kwargs})
    criterion.start(net, [units[FIRST]])
    return net, criterion, units[FIRST]


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_subgradient_is_added_once_for_each_step(set_to_none: bool) -> None:
    (net, _, _), plain = penalised(0.25), chain()
    for _ in range(2):  # steps
        for x in (batch(), batch() * 2):  # accumulated
            for model in (net, plain):
                model(x).square().mean().backward()
        own, expected = gradients(net), gradients(plain)
        expected["1.weight"] += 0.25 * plain[1].weight.detach().sign()
        assert own.keys() == expected.keys()
        assert all(torch.allclose(own[name], expected[name], rtol=1e-12) for name in own)
        for model in (net, plain):
            model.zero_grad(set_to_none=set_to_none)


def test_it_is_as_large_as_the_loss_is_scaled() -> None:
    (net, criterion, _), (scaled, of_scaled, _) = penalised(0.25), penalised(0.25)
    of_scaled.loss_scale = 1024.0
    net(batch()).square().mean().backward()
    (scaled(batch()).square().mean() * 1024).backward()
    assert all(torch.equal(grad * 1024, gradients(scaled)[name]) for name, grad in gradients(net).items())
    assert criterion.ready


def test_a_scale_that_nothing_reads_goes_down_by_the_penalty_alone() -> None:
    net, criterion, unit = penalised(0.5)
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([1.0, 0.5, -1.0]))
        net[3].weight[:, 1] = 0.0
    optimizer = torch.optim.SGD([net[1].weight], lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        net(batch()).square().mean().mul(0.01).backward()
        optimizer.step()
    assert criterion(unit)[1] == pytest.approx(0.5 - 60 * 0.01 * 0.5, rel=1e-9)


def test_without_one_nothing_is_changed_and_stop_ends_it() -> None:
    (net, _, _), (stopped, criterion, _), plain = penalised(0.0), penalised(0.5), chain()
    criterion.stop()
    copied = copy.deepcopy(penalised(0.5)[0])
    for model in (net, stopped, copied, plain):
        model(batch()).square().mean().backward()
    for model in (net, stopped, copied):
        assert all(torch.equal(grad, gradients(plain)[name]) for name, grad in gradients(model).items())


@pytest.mark.parametrize("penalty", [-1.0, "much", True, float("nan")])
def test_wrong_penalties_are_refused(penalty: Any) -> None:
    with pytest.raises(ConfigError, match="penalty must be a number of at least 0"):
        NormScaleCriterion(penalty=penalty)
