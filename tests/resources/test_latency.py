"""Latency that is measured at a few choices and estimated at all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from zoo import Toy, images

from lightning_channels import ChannelMutator, ConfigError, LatencyModel, Resources
from lightning_channels.resources import bench, timing
from lightning_channels.tracing.program import Op, Program


@pytest.fixture
def mutator() -> ChannelMutator:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(Toy(), images(16, 2))
    return mutator


def simulated(program: Program, op: Op) -> float:
    """Seconds on a machine that computes or writes one number in a nanosecond."""
    if op.name == "convolution":
        weight, out = program.shapes[op.args[1].id], program.shapes[op.outputs[0].id]
        return out.numel() * math.prod(weight[1:]) * 1e-9
    if op.name == "addmm":
        return program.shapes[op.args[1].id].numel() * program.shapes[op.args[2].id][1] * 1e-9
    return sum(program.shapes[out.id].numel() for out in op.outputs if out is not None) * 1e-9


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """A machine without noise, on which a whole model takes twice its operators' time and 3 ms more."""
    models: list[nn.Module] = []

    def whole(model: nn.Module, inputs: Any, device: torch.device, budget: float) -> float:
        models.append(model)
        operators = timing.OperatorTimes(device, budget)
        return 2 * sum(operators.of(model, inputs).values()) + 0.003

    monkeypatch.setattr(timing.OperatorTimes, "_time", lambda self, program, op: simulated(program, op))
    monkeypatch.setattr(bench, "time_model", whole)
    return models


def test_a_machine_whose_operators_add_up_is_fitted(mutator: ChannelMutator, machine: list[nn.Module]) -> None:
    before = mutator.current_choices
    found = LatencyModel(mutator, images(16, 2), shares=(0.5,), random_choices=3)
    assert found.scale == pytest.approx(2)
    assert found.offset == pytest.approx(3)
    assert found.error == pytest.approx(0, abs=1e-9)
    assert len(found.held_out) == 3
    assert mutator.current_choices == before
    resources = Resources(mutator)
    resources.add_latency(found)
    assert resources.names[-1] == "latency_ms"
    macs = {name: float(value) for name, value in resources.measure(torch.tensor([5, 3])).items()}
    made = macs["activations"] / 4 - 2 * 256 * (5 + 3) - 2 * 1000  # all but what the contractions make
    assert macs["latency_ms"] == pytest.approx(3 + 2e-6 * (macs["macs"] + made))
    assert resources.totals["latency_ms"] > macs["latency_ms"]
    assert "latency_ms" not in resources.count(), "not a whole number"
    assert bool((resources.marginal(resources.full, "latency_ms") > 0).all())


def test_held_out_choices_show_what_is_not_additive(
    mutator: ChannelMutator, machine: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter([9.0, 1.0, 5.0, 5.0, 1.0, 1.0])
    monkeypatch.setattr(bench, "time_model", lambda *_: next(taken))
    assert LatencyModel(mutator, images(16, 2), random_choices=2).error > 0.5


def test_progress_is_told(mutator: ChannelMutator, machine: list[nn.Module]) -> None:
    told: list[tuple[int, int]] = []
    LatencyModel(mutator, images(16, 2), random_choices=2, progress=lambda done, of: told.append((done, of)))
    assert told == [(number, 11) for number in range(1, 12)]
    assert len(machine) == 6
    assert all(not model.training for model in machine)


def test_a_bar_is_shown_where_it_is_asked_for(
    mutator: ChannelMutator, machine: list[nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    LatencyModel(mutator, images(16, 2), random_choices=2, progress=True)
    assert "measuring latency: 100%" in capsys.readouterr().err.split("\r")[-1]
    with pytest.raises(ConfigError, match="progress must be true for a bar, or a function"):
        LatencyModel(mutator, images(16, 2), progress="bar")  # type: ignore[arg-type]
    assert len(machine) == 6


def test_a_real_machine(mutator: ChannelMutator) -> None:
    found = LatencyModel(mutator, images(16, 2), shares=(0.5,), random_choices=2)
    assert all(pair.measured > 0 and pair.predicted > 0 for pair in found.held_out)
    assert found.error == sum(pair.error for pair in found.held_out) / 2
    assert repr(found).startswith("LatencyModel(device=cpu, error=")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu(mutator: ChannelMutator) -> None:
    found = LatencyModel(mutator, images(16, 2), "cuda", shares=(0.5,), random_choices=2)
    assert found.device.type == "cuda"
    assert all(pair.measured > 0 and pair.predicted > 0 for pair in found.held_out)
    assert next(mutator.model.parameters()).device.type == "cpu"


def test_each_operator_is_timed_once_with_its_shapes() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x)).relu()

    times = timing.OperatorTimes(torch.device("cpu"), 1e-4)
    found = times.of(Twice().eval(), torch.randn(2, 4))
    assert found[("a", "macs")] == found[("b", "macs")] > 0
    assert list(found) == [("a", "macs"), ("b", "macs"), ("", "activations")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu"}, "device must be 'cpu' or 'cuda', got 'gpu'"),
        ({"device": "mps"}, "device must be one that latency can be measured on here"),
        ({"shares": (0.5, 2)}, r"shares must lie between 0 and 1, got \[0.5, 2\]"),
        ({"random_choices": 0}, "random_choices must be at least 1, got 0"),
    ],
)
def test_bad_arguments(mutator: ChannelMutator, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LatencyModel(mutator, images(16, 2), **arguments)


def test_operators_must_be_known(mutator: ChannelMutator) -> None:
    template = mutator.structure()["template"]
    again = ChannelMutator(template["channel_unit_cfg"], {"type": "Config"})
    again.prepare_from_supernet(Toy())
    with pytest.raises(ConfigError, match="this mutator knows of none; find its units with a ForwardTracer"):
        LatencyModel(again, images(16, 2))
