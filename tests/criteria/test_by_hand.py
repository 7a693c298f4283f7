"""Every criterion of the weights against what the papers say, computed channel by channel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_channels import Channel, ChannelMutator, ConfigError, GroupTensor, PrepareError, build_criterion
from lightning_channels.criteria import group_tensors, normalized, scores_of
from tests.criteria.nets import FIRST, SECOND, batch, chain, close, prepared


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    return chain()


@pytest.fixture(scope="module")
def units(net: nn.Sequential) -> Any:
    return prepared(net, batch())[1]


def of_channel(net: nn.Sequential, unit: str, channel: int) -> dict[str, Tensor]:
    """All that belongs to a channel, written down for this net."""
    own = {name: parameter.detach() for name, parameter in net.named_parameters()}
    if unit == FIRST:
        return {
            "0.weight": own["0.weight"][channel],
            "0.bias": own["0.bias"][channel],
            "1.weight": own["1.weight"][channel],
            "1.bias": own["1.bias"][channel],
            "3.weight": own["3.weight"][:, channel],
        }
    return {
        "3.weight": own["3.weight"][channel],
        "3.bias": own["3.bias"][channel],
        "5.weight": own["5.weight"][:, 4 * channel : 4 * channel + 4],  # four places of each channel
    }


def numbers(tensor: Tensor) -> list[float]:
    return [float(value) for value in tensor.flatten()]


def l1(tensor: Tensor) -> float:
    return sum(abs(value) for value in numbers(tensor))


def l2(tensor: Tensor) -> float:
    return sum(value * value for value in numbers(tensor))


def over(values: list[float]) -> list[float]:
    """Divided by their mean."""
    return [value * len(values) / sum(values) for value in values]


@pytest.mark.parametrize("name", [FIRST, SECOND])
@pytest.mark.parametrize(("criterion", "size"), [("l1", l1), ("l2", l2)])
def test_magnitudes(net: Any, units: Any, name: str, criterion: str, size: Callable[[Tensor], float]) -> None:
    unit = units[name]
    rows = [[size(part) for part in of_channel(net, name, i).values()] for i in range(unit.num_channels)]
    assert close(build_criterion(criterion)(unit), over([sum(row) / len(row) for row in rows]))
    for reduction, by_hand in {
        "sum": [sum(row) for row in rows],
        "mean": [sum(row) / len(row) for row in rows],
        "max": [max(row) for row in rows],
        "prod": [math.prod(row) for row in rows],
        "first": [row[0] for row in rows],
    }.items():
        found = build_criterion({"type": criterion, "reduction": reduction, "normalizer": None})(unit)
        assert close(found, by_hand), reduction


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        (["outputs"], ["0.weight"]),
        (["inputs"], ["3.weight"]),
        (["norms"], ["1.weight"]),
        (["biases"], ["0.bias", "1.bias"]),
        (["norms", "outputs"], ["0.weight", "1.weight"]),
    ],
)
def test_which_tensors_count(net: Any, units: Any, kinds: list[str], names: list[str]) -> None:
    criterion = build_criterion({"type": "l1", "reduction": "sum", "normalizer": None, "tensors": kinds})
    expected = [sum(l1(of_channel(net, FIRST, i)[name]) for name in names) for i in range(3)]
    assert close(criterion(units[FIRST]), expected)


def test_norm_scales(net: Any, units: Any) -> None:
    scales = [abs(value) for value in numbers(net[1].weight.detach())]
    assert close(build_criterion({"type": "bn_scale", "normalizer": None})(units[FIRST]), scales)
    with pytest.raises(ConfigError, match=r"can't score unit '3_\(0, 4\)_4', which has no norms; take another"):
        build_criterion("bn_scale")(units[SECOND])
    with pytest.raises(ConfigError, match="has no norms"):
        build_criterion("bn_scale").start(net, list(units.values()))  # type: ignore[attr-defined]


def test_lamp(net: Any, units: Any) -> None:
    sizes = []
    for i in range(4):
        parts = of_channel(net, SECOND, i)
        sizes.append(l2(parts["3.weight"]) + l2(parts["5.weight"]))
    expected = [size / sum(other for other in sizes if other >= size) for size in sizes]
    assert close(build_criterion("lamp")(units[SECOND]), expected)


def test_geometric_median(net: Any, units: Any) -> None:
    filters = [numbers(of_channel(net, FIRST, i)["0.weight"]) for i in range(3)]
    expected = [sum(math.dist(one, other) for other in filters) for one in filters]
    criterion = build_criterion({"type": "fpgm", "tensors": ["outputs"], "normalizer": None})
    assert close(criterion(units[FIRST]), expected)
    readers = [numbers(of_channel(net, FIRST, i)["3.weight"]) for i in range(3)]
    of_readers = [sum(math.dist(one, other) for other in readers) for one in readers]
    both = [(a + b) / 2 for a, b in zip(expected, of_readers, strict=True)]
    assert close(build_criterion("fpgm")(units[FIRST]), over(both))


def test_equal_filters_are_at_distance_zero() -> None:
    """In as many channels that torch.cdist would take a matrix product, which rounds."""
    net = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(1, 5).expand(40, 5) * 100)
    _, units = prepared(net, torch.randn(1, 5))
    criterion = build_criterion({"type": "fpgm", "tensors": ["outputs"], "normalizer": None})
    assert criterion(units["0_(0, 40)_40"]).tolist() == [0.0] * 40


def test_random_scores_are_those_of_seed_and_name(units: Any) -> None:
    scores = {
        (seed, name): build_criterion({"type": "random", "seed": seed})(units[name])
        for seed in (0, 1)
        for name in units
    }
    assert all(((score >= 0) & (score < 1)).all() for score in scores.values())
    assert len({tuple(score[:3].tolist()) for score in scores.values()}) == 4
    state = torch.get_rng_state()
    assert torch.equal(build_criterion("random")(units[FIRST]), scores[0, FIRST])
    assert torch.equal(torch.get_rng_state(), state)
    # of another process, on another day
    assert scores[0, FIRST].tolist() == RANDOM


RANDOM = [0.20907114520325776, 0.9633425004016002, 0.13230608501438734]


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        ("mean", [0.5, 2.0, 0.25, 1.25]),
        ("max", [0.25, 1.0, 0.125, 0.625]),
        ("sum", [0.125, 0.5, 0.0625, 0.3125]),
        ("standardization", [1 / 7, 1.0, 0.0, 4 / 7]),
        ("gaussian", [value / math.sqrt(10) for value in (-2, 4, -3, 1)]),
        ("lamp", [2 / 15, 1.0, 1 / 16, 5 / 13]),
        (None, [2.0, 8.0, 1.0, 5.0]),
    ],
)
def test_normalizers(normalizer: str | None, expected: list[float]) -> None:
    assert close(normalized(torch.tensor([2.0, 8.0, 1.0, 5.0], dtype=torch.float64), normalizer), expected)


@pytest.mark.parametrize("normalizer", ["mean", "max", "sum", "standardization", "gaussian", "lamp"])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_scores_stay_finite(normalizer: str, value: float) -> None:
    assert normalized(torch.full((4,), value, dtype=torch.float64), normalizer).isfinite().all()


def test_what_is_active_changes_nothing() -> None:
    net = chain()
    mutator, units = prepared(net, batch())
    before = {name: build_criterion("l1")(unit) for name, unit in units.items()}
    mutator.set_choices({FIRST: 1, SECOND: 2})
    assert all(torch.equal(build_criterion("l1")(unit), before[name]) for name, unit in units.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_single(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(300, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(net[0].weight, 100.0)
    _, units = prepared(net, torch.randn(1, 300))
    net.to(dtype)
    criterion = build_criterion({"type": "l2", "tensors": ["outputs"], "normalizer": None})
    assert criterion(units["0_(0, 4)_4"]).tolist() == [3e6] * 4  # far above the largest float16


def test_tied_tensors_count_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[2].weight = net[0].weight
    _, units = prepared(net, torch.randn(1, 4))
    seen = [(tensor.name, tensor.dim) for unit in units.values() for tensor in group_tensors(unit)]
    assert len(seen) == len(set(seen))
    assert ("2.weight", 0) not in seen


def test_what_is_there_less_often_is_filled_up_with_zeros() -> None:
    """As where the first two of three channels are read twice."""
    weight = torch.arange(1.0, 11.0).reshape(2, 5)
    reading = Channel("head", 0, 5, False, index=(0, 1, 2, 0, 1))
    tensor = GroupTensor("head.weight", weight, 1, 1, "inputs", 3, (reading,))
    expected = torch.tensor([[1.0, 6.0, 4.0, 9.0], [2.0, 7.0, 5.0, 10.0], [3.0, 8.0, 0.0, 0.0]])
    assert torch.equal(tensor.rows(), expected)
    assert torch.equal(tensor.rows(weight * 2), expected * 2)
    assert torch.equal(tensor.sums(weight), expected.sum(1))


def test_a_grouped_convolution_reads_a_channel_in_its_own_group() -> None:
    """Four channels in two groups, of each of which two outputs read two."""
    weight = torch.arange(1.0, 9.0).reshape(4, 2, 1, 1)
    tensor = GroupTensor("conv.weight", weight, 1, 2, "inputs", 4, (Channel("conv", 0, 4, False),))
    assert tensor.rows().tolist() == [[1.0, 3.0], [2.0, 4.0], [5.0, 7.0], [6.0, 8.0]]
    assert tensor.sums(weight).tolist() == [4.0, 6.0, 12.0, 14.0]


def test_a_unit_without_a_model_is_refused() -> None:
    mutator = ChannelMutator()
    net = chain()
    mutator.prepare_from_supernet(net, batch())
    unit = mutator.mutable_units[0]
    mutator.restore()
    with pytest.raises(PrepareError, match="belongs to no prepared model"):
        scores_of(build_criterion("l1"), unit)
