"""Statistics for a block: the recalibrated ones inside, bitwise the old ones after."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_channels import (
    ChannelMutator,
    ConfigError,
    SlimmableChannelMutator,
    recalibrate_batch_norm,
    recalibrated,
)
from tests.recalibration.two_ranks import KEPT, UNIT, batches, net, state_of


def narrow() -> tuple[nn.Sequential, ChannelMutator]:
    model = net()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, torch.randn(1, 3, 6, 6))
    mutator.name2unit[UNIT].keep(KEPT)
    return model, mutator


def bits(model: nn.Module) -> dict[str, Any]:
    """So that a NaN equals itself, and 0.0 is not -0.0."""
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def test_inside_recalibrated_afterwards_as_before() -> None:
    model, _ = narrow()
    model[1]._buffers["running_var"][0] = float("nan")
    model[1]._buffers["running_mean"][1] = -0.0
    twin, _ = narrow()
    recalibrate_batch_norm(twin, batches(0, 3))
    before, buffers = bits(model), dict(model.named_buffers())
    with recalibrated(model, batches(0, 5), lambda net, x: net(x), num_batches=3):
        for i in (1, 4):
            assert torch.equal(model[i].running_mean, twin[i].running_mean)
            assert torch.equal(model[i].running_var, twin[i].running_var)
        assert bits(model) != before
    assert bits(model) == before
    assert all(buffers[name] is buffer for name, buffer in model.named_buffers())


def test_whatever_happens_in_the_block() -> None:
    model, mutator = narrow()
    before = bits(model)
    with recalibrated(model, batches(0, 1)):
        mutator.set_choices(mutator.sample_choices("max"))
        model.train()(batches(1, 1)[0])
    assert bits(model) == before  # channels that weren't active, and num_batches_tracked, as well


def test_after_an_exception() -> None:
    model, _ = narrow()
    before = bits(model)
    with pytest.raises(KeyError, match="in the block"), recalibrated(model, batches(0, 1)):
        raise KeyError("in the block")
    assert bits(model) == before


def test_after_a_recalibration_that_failed() -> None:
    model, _ = narrow()
    before, reached = bits(model), False
    wrong: list[tuple[list[Tensor], type[Exception]]] = [([], ConfigError), ([*batches(0, 1), X], RuntimeError)]
    for data, error in wrong:
        with pytest.raises(error), recalibrated(model, data):
            reached = True
        assert bits(model) == before
    assert not reached


X = torch.randn(2, 5, 6, 6)  # of five colours


def test_the_statistics_of_every_candidate() -> None:
    model = net()
    mutator = SlimmableChannelMutator(
        {"type": "SlimmableChannelUnit", "default_args": {"candidate_choices": [0.5, 1.0], "choice_mode": "ratio"}}
    )
    mutator.prepare_from_supernet(model, torch.randn(1, 3, 6, 6))
    mutator.set_subnet(0)
    before, state = bits(model), state_of(model)
    with recalibrated(model, batches(0, 2)):
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, state[name])}
        assert changed
        assert all(".candidates.0.running_" in name or name.startswith("4.") for name in changed)
        mutator.set_subnet(1)
        model.train()(batches(1, 1)[0])
    assert bits(model) == before
