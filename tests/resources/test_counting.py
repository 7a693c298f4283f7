"""Counts at any choice against torch's own counters on the exported model."""

from __future__ import annotations

import random
from typing import Any

import networks.heads
import networks.map_attention
import networks.positions
import networks.test_pitfalls
import networks.torch_attention
import pytest
import torch
import torchvision
from measuring import measured
from networks.case import CASES, Case
from zoo import ZOO, Entry, images

from lightning_channels import ChannelMutator, PrepareError, ResourceCounter, Resources, count_resources, export_subnet

NAMES = {
    "toy", "everything", "tokens", "resnet18", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_small",
    "shufflenet_v2_x1_0", "densenet121", "efficientnet_b0", "convnext_tiny", "googlenet", "lraspp_mobilenet_v3_large",
}  # fmt: skip
OTHERS = ("regnet_y_400mf", "squeezenet1_1", "swin_t", "mnasnet0_5")
ATTENDING = {m.__name__ for m in (networks.heads, networks.map_attention, networks.positions, networks.torch_attention)}
FIRST = {"GhostOdd", "UnequalPieces"}
"""How many channels of a copy are left depends on which are kept; it is counted for the first ones."""
COPIES = {"MasksAndDropout", "SpatialReduction"}
"""Under a recorder dropout takes another kernel; where values aren't computed, a layout is another."""


def draw(mutator: ChannelMutator, seed: int) -> None:
    """Set each unit to a random width: of the first channels, or of any if the seed is odd.

    Of at least 2 where that narrows it: einsum multiplies what has one channel element by element.
    """
    rng = random.Random(seed)
    for unit in mutator.mutable_units:
        inside = unit.num_channels // unit.groups
        count = rng.randint(min(2, inside - 1), inside - 1)
        kept = sorted(rng.sample(range(inside), count)) if seed % 2 else range(count)
        unit.keep([group * inside + channel for group in range(unit.groups) for channel in kept])


def compare(mutator: ChannelMutator, inputs: Any, activations: bool, choices: int = 3) -> None:
    resources, model = Resources(mutator), mutator.model
    full = {name: round(value) for name, value in resources.totals.items()}
    for seed in range(choices):
        draw(mutator, seed)
        counted, expected = resources.count(), measured(export_subnet(model), inputs)
        assert counted["flops"] == expected["flops"] == 2 * counted["macs"]
        assert counted["params"] == expected["params"]
        assert counted["params"] < full["params"]
        if activations:
            assert counted["activations"] == expected["activations"] < full["activations"]


@pytest.mark.parametrize("entry", [entry for entry in ZOO if entry.name in NAMES], ids=str)
def test_the_zoo(entry: Entry) -> None:
    model, inputs = entry.build().eval(), entry.inputs()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, inputs)
    assert Resources(mutator).count() == {"macs": sum(mutator.macs.values())} | measured(model, inputs) | {
        "flops": 2 * sum(mutator.macs.values())
    }
    compare(mutator, inputs, activations=True)


@pytest.mark.parametrize("name", OTHERS)
def test_more_of_torchvision(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None).eval()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, images(64, 1))
    compare(mutator, images(64, 1), activations=name != "swin_t", choices=2)


def test_a_small_vision_transformer() -> None:
    model = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5).eval()
    mutator = ChannelMutator(parse_cfg={"type": "ForwardTracer", "attention": "both"})
    mutator.prepare_from_supernet(model, images(32, 2))
    compare(mutator, images(32, 2), activations=True)


def prepared(case: Case, attention: str) -> ChannelMutator:
    torch.manual_seed(0)
    mutator = ChannelMutator(parse_cfg={"type": "ForwardTracer", "attention": attention})
    mutator.prepare_from_supernet(case.build().double().eval(), case.inputs())
    return mutator


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_network(case: Case) -> None:
    for attention in ("heads", "dims", "both") if case.build.__module__ in ATTENDING else ("heads",):
        mutator = prepared(case, attention)
        counted, expected = Resources(mutator).count(), measured(export_subnet(mutator.model), case.inputs())
        assert (counted["flops"], counted["params"]) == (expected["flops"], expected["params"])
        if str(case) not in COPIES:
            assert counted["activations"] == expected["activations"]
        if mutator.mutable_units:
            compare(mutator, case.inputs(), activations=False, choices=1 if str(case) in FIRST else 2)


def test_a_copy_of_some_channels_is_counted_for_the_first_ones() -> None:
    """It is no exception: of the 7 channels the second half of what comes out has the first ones but for the last."""
    case = next(case for case in CASES if str(case) == "GhostOdd")
    mutator = prepared(case, "heads")
    limited = [entry for entry in mutator.costs.units if isinstance(entry, list)]
    assert limited
    again = ChannelMutator.from_structure(mutator.structure())
    again.prepare_from_supernet(case.build().double())
    for number in range(1, 5):
        choices = {name: number for name, _ in limited}
        expected = measured(export_subnet(mutator.model, choices), case.inputs())
        for resources in (Resources(mutator), Resources(again)):
            assert {name: resources.count(choices)[name] for name in ("flops", "params")} == {
                name: expected[name] for name in ("flops", "params")
            }


def test_a_counter_follows_the_current_choices() -> None:
    entry = next(entry for entry in ZOO if entry.name == "toy")
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(entry.build(), entry.inputs())
    counter = ResourceCounter(mutator)
    assert (counter.active_macs(), counter.active_params()) == (counter.total_macs, counter.total_params)
    draw(mutator, 0)
    counted = count_resources(mutator.model)
    assert (counter.active_macs(), counter.active_params()) == (counted["macs"], counted["params"])
    assert counted["macs"] < counter.total_macs


def test_a_plain_model_is_refused() -> None:
    with pytest.raises(PrepareError, match="isn't prepared"):
        count_resources(torch.nn.Linear(2, 2))
