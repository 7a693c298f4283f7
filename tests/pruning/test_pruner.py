"""The pruner on prepared nets: which channels go, and how many."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
import torch

from lightning_channels import ChannelMutator, Pruner, export_subnet
from lightning_channels.pruning import PruneEvent
from lightning_channels.resources import Resources
from tests.pruning.nets import FIRST, INPUTS, SECOND, Gradients, chain, drawn, grouped, numbers, prepared, pruned, rated

GROUPED = ["0_(0, 8)_8", "3_(0, 12)_12", "6_(0, 10)_10"]


def nearest_of_all(mutator: ChannelMutator, target: dict[str, float], allowed: list[list[int]]) -> float:
    """Of all choices within the targets, the one that is nearest to them."""
    resources = Resources(mutator)
    measured = resources.measure(torch.tensor(list(itertools.product(*allowed))))
    loads = torch.stack([measured[name] / (part * resources.totals[name]) for name, part in target.items()]).amax(0)
    return float(loads[loads <= 1].max())


@pytest.mark.parametrize(
    ("unit", "allowed"),
    [
        ("SequentialMutableChannelUnit", [list(range(1, 9)), [3, 6, 9, 12], list(range(1, 11))]),
        ({"type": "sequential", "default_args": {"divisor": 2}}, [[2, 4, 6, 8], [6, 12], [2, 4, 6, 8, 10]]),
        ({"type": "sequential", "default_args": {"min_value": 4}}, [[4, 5, 6, 7, 8], [6, 9, 12], list(range(4, 11))]),
        (
            {"type": "one_shot", "default_args": {"candidate_choices": [0.25, 0.5, 1.0]}},
            [[2, 4, 8], [3, 6, 12], [3, 5, 10]],
        ),
        ("L1MutableChannelUnit", [list(range(1, 9)), [3, 6, 9, 12], list(range(1, 11))]),
    ],
)
@pytest.mark.parametrize(
    "target", [{"flops": 0.5}, {"params": 0.7}, {"flops": 0.6, "params": 0.6}, {"activations": 0.8}]
)
def test_the_target_is_reached_by_what_units_allow(unit: Any, allowed: Any, target: Any) -> None:
    mutator = prepared(grouped, unit)
    pruner = Pruner(drawn(), target)
    (event,) = pruned(pruner, mutator)
    resources = Resources(mutator)
    load = max(event.reached[name] / (part * resources.totals[name]) for name, part in target.items())
    assert min(0.99, nearest_of_all(mutator, target, allowed)) <= load <= 1
    assert all(number in own for number, own in zip(numbers(mutator), allowed, strict=True))
    assert pruner.reached == event.reached
    assert event.reached["params"] == sum(p.numel() for p in export_subnet(mutator.model).parameters())


def test_each_unit_keeps_its_best_channels() -> None:
    mutator = prepared(grouped)
    scores = drawn()
    pruned(Pruner(scores, {"flops": 0.4}), mutator)
    for unit in mutator.mutable_units:
        mask = unit.mutable_channel.current_mask.view(unit.groups, -1)
        assert bool((mask == mask[:1]).all())
        rows = scores(unit).view(unit.groups, -1).sum(0)
        assert float(rows[mask[0]].min()) > float(rows[~mask[0]].max())


@pytest.mark.parametrize("part", [0.2, 0.3, 0.5, 0.8])
def test_all_units_keep_the_same_share(part: float) -> None:
    mutator = prepared(grouped)
    resources = Resources(mutator)
    limit = part * resources.totals["flops"]
    (event,) = pruned(Pruner(drawn(), {"flops": part}, scope="unit"), mutator)
    assert event.reached["flops"] <= limit
    shares = [event.after[unit.name] / unit.num_channels for unit in mutator.mutable_units]
    steps = [unit.groups / unit.num_channels for unit in mutator.mutable_units]
    assert max(shares) - min(shares) <= 2 * max(steps)
    wider = [min(unit.num_channels, event.after[unit.name] + unit.groups) for unit in mutator.mutable_units]
    assert float(resources.measure(torch.tensor(wider))["flops"]) > limit


def test_latency_is_kept_even_if_it_jumps() -> None:
    """More channels may be faster, as they are on tensor cores."""

    class Jumping:
        def __init__(self) -> None:
            self.units = dict(zip(GROUPED, (8, 12, 10), strict=True))

        def predict(self, chosen: torch.Tensor) -> torch.Tensor:
            return 0.2 + 0.1 * chosen.double().sum(1) + 0.15 * (chosen % 4 != 0).double().sum(1)

    for part in (0.6, 0.7, 0.8, 0.95):
        mutator = prepared(grouped)
        resources = Resources(mutator)
        resources.add_latency(cast(Any, Jumping()))
        pruner = Pruner(drawn(), {"latency_ms": f"{100 * part}%"})
        pruner.start(mutator, 40, resources)
        event = pruner.before_step(0)
        assert event is not None
        assert 0.9 * part < event.reached["latency_ms"] / resources.totals["latency_ms"] <= part


def test_given_widths_need_no_target() -> None:
    mutator = prepared(grouped)
    (event,) = pruned(Pruner(drawn(), None, scope={"0*": 0.5, "3*": 6}), mutator)
    assert list(event.after.values()) == [4, 6, 10]
    assert event.finished
    assert str(event).startswith("step 0: flops ")


def test_given_widths_and_the_others_by_rank() -> None:
    mutator = prepared(grouped)
    (event,) = pruned(Pruner(drawn(), {"flops": 0.5}, scope={"0*": 7}), mutator)
    assert event.after[GROUPED[0]] == 7
    total = Resources(mutator).totals["flops"]
    assert 0.4 * total < event.reached["flops"] <= 0.5 * total


def test_given_widths_are_approached_as_the_schedule_says() -> None:
    mutator = prepared(grouped)
    pruner = Pruner(drawn(), None, "linear", scope={"0*": 4, "3*": 3}, end_step=8)
    widths = {0: [8, 12, 10]}
    widths.update({event.step: list(event.after.values()) for event in pruned(pruner, mutator)})
    # 8 - 0.5 step and 12 - 1.125 step, to the nearest of those allowed, of two the larger
    assert widths == {
        0: [8, 12, 10],
        2: [7, 9, 10],
        4: [6, 9, 10],
        5: [6, 6, 10],
        6: [5, 6, 10],
        7: [5, 3, 10],
        8: [4, 3, 10],
    }


def test_others_do_not_make_up_for_a_given_width_that_comes_later() -> None:
    ends = []
    for schedule in ("one_shot", "linear"):
        mutator = prepared(grouped)
        pruned(Pruner(drawn(), {"flops": 0.5}, schedule, scope={"3*": 3}), mutator)
        ends.append(numbers(mutator))
    assert ends[0] == ends[1] == [8, 3, 10]


@pytest.mark.parametrize(
    ("floor", "least"),
    [
        (3, [3, 3, 3]),
        (0.5, [4, 6, 5]),
        ({"3*": 12, "*": 0.25}, [2, 12, 3]),
        ({"0*": 8}, [8, 3, 1]),
        (100, [8, 12, 10]),
    ],
)
def test_floors_are_kept(floor: Any, least: list[int]) -> None:
    mutator = prepared(grouped)
    resources = Resources(mutator)
    left = float(resources.measure(torch.tensor(least))["flops"])
    pruner = Pruner(drawn(), {"flops": left}, floor=floor)
    pruned(pruner, mutator)
    assert numbers(mutator) == least
    assert pruner.finished


def test_what_is_ignored_stays() -> None:
    mutator = prepared(grouped)
    asked: list[str] = []

    def criterion(unit: Any) -> torch.Tensor:
        asked.append(unit.name)
        return drawn()(unit)

    pruned(Pruner(criterion, {"flops": 0.6}, ignore=["3*"]), mutator)
    assert numbers(mutator)[1] == 12
    assert asked == [GROUPED[0], GROUPED[2]]


def test_pruned_channels_stay_pruned_whatever_their_scores_become() -> None:
    mutator = prepared(grouped)
    seed = [0]
    pruner = Pruner(lambda unit: drawn(seed[0])(unit), {"flops": 0.3}, "linear", end_step=10)
    pruner.start(mutator, 40)
    before = {unit.name: unit.mutable_channel.current_mask.clone() for unit in mutator.mutable_units}
    for step in range(12):
        seed[0] = step
        pruner.before_step(step)
        for unit in mutator.mutable_units:
            mask = unit.mutable_channel.current_mask
            assert not bool((mask & ~before[unit.name]).any())
            before[unit.name] = mask.clone()
    assert pruner.finished


def test_regrown_channels_come_back_where_their_scores_say_so() -> None:
    masks = []
    for regrow in (False, True):
        mutator = prepared()
        rising = {FIRST: [1.0, 2, 3, 4, 5, 6], SECOND: [9.0] * 5}
        pruner = Pruner(
            lambda unit, rising=rising: torch.tensor(rising[unit.name]), {"flops": 0.6}, "linear", regrow=regrow
        )
        pruner.start(mutator, 20)
        for step in range(8):
            pruner.before_step(step)
        assert not bool(mutator.units[1].mutable_channel.current_mask[0])
        rising[FIRST] = [6.0, 5, 4, 3, 2, 1]
        for step in range(8, 20):
            pruner.before_step(step)
        masks.append(mutator.kept_channels().get(FIRST, "first"))
    assert masks[0] != "first" == masks[1]


def test_the_target_is_approached_as_the_schedule_says() -> None:
    mutator = prepared(grouped)
    total = Resources(mutator).totals["flops"]
    pruner = Pruner(drawn(), {"flops": 0.3}, "cubic", start_step=4, end_step=24)
    reached = {}
    pruner.start(mutator, 60)
    for step in range(60):
        event = pruner.before_step(step)
        reached[step] = pruner.reached["flops"]
        assert event is None or step >= 4
    assert reached[3] == total
    for step in range(4, 24):
        t = (step - 4) / 20
        assert reached[step] <= (0.3 + 0.7 * (1 - t) ** 3) * total or reached[step] > 0.3 * total
    assert 0.28 * total < reached[24] == reached[59] <= 0.3 * total


def test_it_starts_from_what_is_there() -> None:
    """A net that was narrowed before is narrowed further, and keeps what it keeps."""
    mutator = prepared(grouped)
    mutator.keep_channels({GROUPED[0]: [1, 3, 5, 7]})
    pruned(Pruner(drawn(), {"flops": 0.2}), mutator)
    assert set(mutator.kept_channels().get(GROUPED[0], [])) <= {1, 3, 5, 7}
    done = numbers(mutator)
    again = Pruner(drawn(1), {"flops": 0.2}, "linear")
    again.start(mutator, 40)
    assert again.finished
    assert [again.before_step(step) for step in range(40)] == [None] * 40
    assert numbers(mutator) == done


def test_a_criterion_that_collects_is_waited_for() -> None:
    mutator = prepared()
    criterion = Gradients()
    pruner = Pruner(criterion, {"flops": 0.5}, "one_shot", start_step=2)
    pruner.start(mutator, 40)
    assert [pruner.before_step(step) for step in range(4)] == [None] * 4
    mutator.model(torch.ones(3, 4)).sum().backward()
    pruner.after_backward()
    event = pruner.before_step(4)
    assert event is not None
    assert event.step == 4
    assert event.finished
    assert criterion.calls == ["start", "stop"]
    pruner.after_backward()  # is no longer passed on
    pruner.stop()
    assert criterion.calls == ["start", "stop"]


def test_scores_are_collected_anew_after_each_change() -> None:
    mutator = prepared()
    criterion = Gradients()
    pruner = Pruner(criterion, {"flops": 0.3}, "greedy", interval=2)
    pruner.start(mutator, 40)
    for step in range(6):
        event = pruner.before_step(step)
        assert (event is not None) == (step in (2, 4))
        assert criterion.ready == (step in (1, 3, 5))
        mutator.model(torch.ones(3, 4)).sum().backward()
        pruner.after_backward()
    pruner.stop()
    assert criterion.calls == ["start", "stop"]


def test_an_event_is_plain_and_says_what_happened() -> None:
    mutator = prepared()
    criterion = rated({FIRST: [1.0, 2, 3, 4, 5, 6], SECOND: [9.0] * 5})
    (event,) = pruned(Pruner(criterion, {"params": 47}, start_step=3), mutator)
    assert isinstance(event, PruneEvent)
    assert (event.before, event.after) == ({FIRST: 6, SECOND: 5}, {FIRST: 3, SECOND: 5})
    assert event.changed == [FIRST]
    assert (event.step, event.progress, event.limits) == (3, 1.0, {"params": 47.0})
    assert event.reached == Resources(mutator).count()
    assert str(event) == "step 3: params 47 of 77 (61.0%); 1 of 2 units changed; target reached: params 47"
    again = prepared()
    (event,) = pruned(Pruner(criterion, {"params": "53.9"}), again)
    assert "the nearest reachable choice below the target: params 53.9" in str(event)
    assert numbers(again) == [5, 3]  # 51 of 53.9; the ranking alone would leave 47


def test_a_normalizer_is_passed_on() -> None:
    assert Pruner("l1", {"flops": 0.5}, normalizer="max").criterion.normalizer == "max"
    assert Pruner({"type": "l1", "reduction": "sum"}, {"flops": 0.5}, normalizer="sum").criterion.normalizer == "sum"


def test_the_pruned_net_is_what_is_exported() -> None:
    mutator = prepared(grouped)
    pruned(Pruner("l1", {"flops": 0.5}), mutator)
    inputs = torch.randn_like(INPUTS[grouped])
    torch.testing.assert_close(export_subnet(mutator.model)(inputs), mutator.model(inputs))
    assert chain in INPUTS
