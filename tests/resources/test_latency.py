"""Latency that is measured at a few choices and estimated at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from zoo import Toy, images

from lightning_channels import ChannelMutator, ConfigError, LatencyModel, Resources
from lightning_channels.resources import bench, timing
from tests.resources.machine import simulate


@pytest.fixture
def mutator() -> ChannelMutator:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(Toy(), images(16, 2))
    return mutator


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    return simulate(monkeypatch.setattr)


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
    left = resources.left(dict(zip(resources.units, (5, 3), strict=True)))
    assert left.now["latency_ms"] == macs["latency_ms"]
    assert left.full["latency_ms"] == resources.totals["latency_ms"]
    assert f"latency_ms: {macs['latency_ms']:.3f} of " in str(left)
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
        ({"shares": (0.5, 2)}, r"shares must lie between 0 and 1, got \(0.5, 2\)"),
        ({"shares": "half"}, "shares must lie between 0 and 1, got 'half'"),
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


# --- kept for later
# -----------------------------------------------------------------------------------------------------------------


def measured(mutator: ChannelMutator, **arguments: Any) -> LatencyModel:
    return LatencyModel(mutator, images(16, 2), **{"shares": (0.5,), "random_choices": 2, **arguments})


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("ending", ["json", "yaml", None])
def test_what_was_measured_is_read_again_to_the_last_bit(
    mutator: ChannelMutator, tmp_path: Path, ending: str | None
) -> None:
    found = measured(mutator)
    other = ChannelMutator.from_structure(mutator.structure())
    other.prepare_from_supernet(Toy())
    if ending is None:
        again = LatencyModel.from_dict(other, found.to_dict())
    else:
        again = LatencyModel.load(other, found.save(tmp_path / f"latency.{ending}"))
    numbers = torch.tensor([[5, 3], [8, 16], [1, 1]])
    assert torch.equal(again.predict(numbers), found.predict(numbers))
    assert (again.device, again.batch_size, again.threads) == (torch.device("cpu"), 2, torch.get_num_threads())
    assert (again.held_out, again.error, again.units) == (found.held_out, found.error, found.units)
    assert again.to_dict() == found.to_dict()


@pytest.mark.usefixtures("machine")
def test_measuring_draws_no_random_number(mutator: ChannelMutator) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    measured(mutator)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "has version 2; this release reads version 1. Measure it anew"),
        ("version", None, "has version None"),
        ("device", "mps", "must have cpu or cuda as 'device'"),
        ("device", "cuda:x", "must have cpu or cuda as 'device'"),
        ("threads", 0, "a number of threads"),
        ("batch_size", 1.5, "a number of examples"),
        ("units", {}, "a number of channels for each unit"),
        ("units", {"net.conv0_(0, 8)_8": 8}, r"on a model with other units \(net.conv1_"),
        ("operators", [["head", "macs", [1.0], [1.0]]], "lists of module, macs or activations"),
        ("operators", [["head", "macs", [2.0, 1.0], [1.0, 1.0]]], "ascending"),
        ("operators", [["head", "time", [1.0, 2.0], [1.0, 1.0]]], "ascending"),
        ("operators", [["head", "macs", [1.0, 2.0], [1.0, -1.0]]], "ascending"),
        ("scale", float("nan"), "numbers must be finite"),
        ("scale", 0, "a number above 0 as 'scale'"),
        ("offset", True, "a number of at least 0"),
        ("held_out", [[1.0, 0.0]], "pairs of predicted and measured"),
        ("model", "x", "takes no key 'model'"),
    ],
)
def test_what_was_not_measured_here_is_refused(mutator: ChannelMutator, key: str, value: Any, message: str) -> None:
    data = measured(mutator).to_dict()
    with pytest.raises(ConfigError, match=message):
        LatencyModel.from_dict(mutator, {**data, key: value})


@pytest.mark.usefixtures("machine")
def test_another_models_latency_is_not_added(mutator: ChannelMutator) -> None:
    other = ChannelMutator()
    other.prepare_from_supernet(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
    with pytest.raises(ConfigError, match="measured on a model with other units"):
        Resources(other).add_latency(measured(mutator))
