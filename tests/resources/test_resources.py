"""What Resources promises besides right counts: any choice, many at once, nothing set, and the same after a file."""

from __future__ import annotations

import json
import math
import random
import time

import pytest
import torch
import torchvision
from torch import nn
from zoo import images

from lightning_channels import (
    ChannelMutator,
    ChoiceError,
    ConfigError,
    PrepareError,
    Resources,
    count_resources,
    resources_left,
)
from lightning_channels.dynamic_ops import DynamicLinear
from lightning_channels.mutables import MutableChannelContainer, SquentialMutableChannel
from lightning_channels.mutators.costs import Costs
from lightning_channels.resources.sums import Sums


class Net(nn.Module):
    """Two convolutions, of which the second has groups, and a concatenation with the first one's result."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, padding=1, groups=2), nn.Linear(14, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.head(torch.cat([x, self.b(x)], 1).mean((2, 3)))


A, B = "a_(0, 8)_8", "b_(0, 6)_6"


@pytest.fixture
def mutator() -> ChannelMutator:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(Net(), torch.randn(2, 3, 4, 4))
    return mutator


def by_hand(a: int, b: int) -> dict[str, int]:
    macs = 32 * (3 * a + 9 * a * b // 2) + 2 * 5 * (a + b)
    params = 4 * a + 9 * a * b // 2 + b + 5 * (a + b) + 5
    made = 32 * (a + b + a + b) + 2 * (a + b) + 2 * 5
    return {"macs": macs, "flops": 2 * macs, "params": params, "activations": 4 * made}


def test_counts_by_hand(mutator: ChannelMutator) -> None:
    resources = Resources(mutator)
    assert resources.names == ("macs", "flops", "params", "activations")
    assert resources.units == [A, B]
    assert resources.full.tolist() == [8, 6]
    assert resources.totals == by_hand(8, 6)
    for a in (2, 4, 6, 8):
        for b in (2, 4, 6):
            assert resources.count({A: a, B: b}) == by_hand(a, b)
    assert mutator.current_choices == {A: 8, B: 6}, "something was set"


def test_choices_that_are_not_named_are_the_current_ones(mutator: ChannelMutator) -> None:
    mutator.set_choices({A: 4})
    resources = Resources(mutator)
    assert resources.current.tolist() == [4, 6]
    assert resources.count() == count_resources(mutator.model) == by_hand(4, 6)
    assert count_resources(mutator.model, {B: 2}) == by_hand(4, 2)
    mutator.name2unit[A].keep([1, 3, 5, 7])
    assert resources.count() == by_hand(4, 6), "other channels than the first"


def test_many_choices_are_measured_at_once(mutator: ChannelMutator) -> None:
    resources = Resources(mutator)
    rows = [(random.Random(i).choice((2, 4, 6, 8)), random.Random(-i).choice((2, 4, 6))) for i in range(600)]
    measured = resources.measure(torch.tensor(rows))
    for name, values in measured.items():
        assert values.dtype == torch.float64
        assert values.tolist() == [by_hand(*row)[name] for row in rows]
    single = resources.measure(torch.tensor(rows[0]))
    assert {name: value.shape for name, value in single.items()} == dict.fromkeys(resources.names, ())


def test_thousands_of_choices_a_second() -> None:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(torchvision.models.mobilenet_v2(), images(32, 1), verify=False)
    resources = Resources(mutator)
    numbers = (torch.rand(4000, len(resources.units)) * resources.full).long().clamp_min(1)
    begin = time.perf_counter()
    resources.measure(numbers)
    assert time.perf_counter() - begin < 1


def test_marginal_costs(mutator: ChannelMutator) -> None:
    resources = Resources(mutator)
    a, b = resources.marginal(torch.tensor([4, 4]), "params").tolist()
    assert a == (by_hand(4, 4)["params"] - by_hand(2, 4)["params"]) / 2, "a loses one channel in each of its groups"
    assert b == (by_hand(4, 4)["params"] - by_hand(4, 2)["params"]) / 2
    with pytest.raises(ConfigError, match="'flop' is not counted; did you mean 'flops'"):
        resources.marginal(resources.full, "flop")


def test_what_does_not_fit_is_refused(mutator: ChannelMutator) -> None:
    resources = Resources(mutator)
    with pytest.raises(ConfigError, match=r"shape \(2,\) or \(n, 2\), one column for each mutable unit, got \(3,\)"):
        resources.measure(torch.tensor([1, 2, 3]))
    with pytest.raises(ChoiceError, match="unknown unit"):
        resources.count({"c": 1})
    with pytest.raises(ChoiceError, match="out of range"):
        resources.count({A: 9})


def test_tables_sum_up(mutator: ChannelMutator) -> None:
    table = Resources(mutator).table({A: 4})
    assert table.totals == by_hand(4, 6)
    assert table.full == by_hand(8, 6)
    for name, total in table.totals.items():
        assert sum(module.get(name, 0) for module in table.modules.values()) == total
    assert list(table.modules) == ["", "a", "b", "head"]
    assert table.channels == {A: (4, 8), B: (6, 6)}
    assert {name: by_hand(4, 6)[name] - by_hand(4, 0)[name] for name in table.totals} == table.units[B]
    assert json.loads(json.dumps(table.to_dict()))["channels"] == {A: [4, 8], B: [6, 6]}
    lines = str(table).splitlines()
    assert lines[0].split() == ["MACs", "parameters", "bytes", "made"]
    assert f"{A}: 4 of 8" in str(table)


# --- without a trace --------------------------------------------------------------------------------------------------


def test_a_structure_holds_what_is_needed(mutator: ChannelMutator) -> None:
    mutator.set_choices({A: 4})
    data = json.loads(json.dumps(mutator.structure()))
    again = ChannelMutator.from_structure(data)
    again.prepare_from_supernet(Net())
    assert again.macs == mutator.macs
    assert Resources(again).count() == by_hand(4, 6)
    assert Resources(again).totals == by_hand(8, 6)
    assert again.structure() == data


def test_of_a_template_that_holds_full_costs_alone_parameters_are_counted(mutator: ChannelMutator) -> None:
    template = mutator.structure()["template"]
    parse_cfg = {"type": "Config", "macs": mutator.macs}
    again = ChannelMutator(template["channel_unit_cfg"], parse_cfg)
    again.prepare_from_supernet(Net())
    assert again.macs == mutator.macs
    assert Resources(again).count({A: 4}) == {"params": by_hand(4, 6)["params"]}


def test_a_predefined_model_counts_parameters() -> None:
    first, second, hidden = DynamicLinear(4, 8), DynamicLinear(8, 2), SquentialMutableChannel(8)
    MutableChannelContainer.register_mutable_channel_to_module(first, hidden, True)
    MutableChannelContainer.register_mutable_channel_to_module(second, hidden, False)
    mutator = ChannelMutator(parse_cfg={"type": "Predefined"})
    mutator.prepare_from_supernet(nn.Sequential(first, second))
    resources = Resources(mutator)
    assert resources.names == ("params",)
    assert resources.count({resources.units[0]: 3}) == {"params": 3 * 4 + 3 + 2 * 3 + 2}


def test_the_backward_tracer_gives_macs() -> None:
    mutator = ChannelMutator(parse_cfg={"type": "BackwardTracer"})
    mutator.prepare_from_supernet(Net(), torch.randn(2, 3, 4, 4))
    counted = Resources(mutator).count({A: 4, B: 2})
    assert counted == {name: by_hand(4, 2)[name] for name in ("macs", "flops", "params")}


def test_restoring_forgets(mutator: ChannelMutator) -> None:
    mutator.restore()
    assert (mutator.costs, mutator.macs) == (Costs(), {})


def test_a_model_without_mutable_units_has_totals() -> None:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(nn.Linear(4, 2), torch.randn(3, 4))
    resources = Resources(mutator)
    assert resources.units == []
    assert resources.count() == {"macs": 24, "flops": 48, "params": 10, "activations": 24}
    assert resources.measure(torch.zeros(5, 0, dtype=torch.long))["macs"].tolist() == [24.0] * 5


# --- forms ------------------------------------------------------------------------------------------------------------


def test_costs_are_read_as_they_print(mutator: ChannelMutator) -> None:
    """``a`` keeps n0 channels in each of its 2 groups, ``b`` n1."""
    costs = mutator.costs
    assert costs.units == [A, B]
    assert costs.sizes == [[[1, 0]], [[1, 1]], [[1, 0], [1, 1]]]
    assert costs.macs == {"a": [[32 * 3 * 2, 0]], "b": [[32 * 9 * 2, 0, 1]], "head": [[2 * 5 * 2, 2]]}


def test_a_size_may_be_a_difference(mutator: ChannelMutator) -> None:
    """As that of what a slice leaves behind the first n channels, in dual path networks."""
    name = next(iter(mutator.mutable_units)).name
    costs = Costs([name, [name, 3]], [[[1, 0], [-1, 1]]], {"conv": [[5, 0]]})
    read = Costs.read(json.loads(json.dumps(costs.to_plain())), mutator.units)
    assert read == costs
    width = mutator.name2unit[name].num_channels // mutator.name2unit[name].groups
    assert read.full_macs(mutator.units) == {"conv": 5 * (width - 3)}


def test_what_is_left_of_what(mutator: ChannelMutator) -> None:
    whole, half = by_hand(8, 6), by_hand(4, 6)
    resources = Resources(mutator)
    left = resources.left({A: 4})
    assert (left.now, left.full) == (half, whole)
    assert left.shares == {name: half[name] / whole[name] for name in whole}
    assert str(left).splitlines() == [
        f"{name}: {half[name]:,} of {whole[name]:,} ({half[name] / whole[name]:.1%})"
        for name in ("macs", "params", "activations")
    ], "FLOPs are twice the MACs"
    mutator.set_choices({A: 4})
    assert resources.left() == left
    assert resources.left({A: 8}).now == resources.left({A: 8}).full == whole
    one = resources_left(mutator.model)
    assert one.shares == left.shares
    assert (one.now["params"], one.now["macs"]) == (half["params"], half["macs"] / 2), "of one sample"


def test_a_module_around_the_prepared_one_says_which_that_is(mutator: ChannelMutator) -> None:
    around = nn.ModuleDict({"net": mutator.model})
    for function in (count_resources, resources_left):
        with pytest.raises(PrepareError, match="prepared module of this ModuleDict is 'net'; pass that one"):
            function(around)
        with pytest.raises(PrepareError, match="isn't prepared"):
            function(nn.Linear(1, 1))


def test_sums_of_products() -> None:
    sizes = [[[2, 0]], [[3], [1, 0, 1]]]
    sums = Sums(sizes, {"one": [[5, 0, 1], [1]], "none": [], "square": [[1, 0, 0]]}, [(0, math.inf), (1, 2)])
    found = sums.at(torch.tensor([[1, 2], [3, 4]]))
    assert found["one"].tolist() == [5 * 2 * (3 + 2) + 1, 5 * 6 * (3 + 3 * 2) + 1], "of the second unit 2 count at most"
    assert found["none"].tolist() == [0, 0]
    assert found["square"].tolist() == [4, 36]


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_what_one_sample_costs_does_not_depend_on_the_example(samples: int) -> None:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(Net(), torch.randn(samples, 3, 4, 4))
    again = ChannelMutator.from_structure(json.loads(json.dumps(mutator.structure())))
    again.prepare_from_supernet(Net())
    expected = by_hand(8, 6)
    expected = {name: value if name == "params" else value / 2 for name, value in expected.items()}
    assert Resources(mutator, per_sample=True).totals == pytest.approx(expected, rel=1e-12)
    assert Resources(again, per_sample=True).totals == pytest.approx(expected, rel=1e-12)
    assert count_resources(again.model)["macs"] == samples * expected["macs"]
