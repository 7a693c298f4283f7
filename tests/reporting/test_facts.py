"""What a report says: numbers against what is counted elsewhere, widths, reasons."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lightning_channels
from lightning_channels import ChannelMutator, count_resources
from lightning_channels.reporting.facts import gather, ranges
from tests.reporting.nets import HIDDEN, STREAM, prepared


def test_totals_are_before_and_now_of_one_sample() -> None:
    mutator = prepared()
    full = count_resources(mutator.model)
    mutator.set_choices({STREAM: 4, HIDDEN: 6})
    small = mutator.export()
    totals = gather(mutator)["totals"]
    assert totals["params"] == [full["params"], sum(p.numel() for p in small.parameters())]
    assert totals["macs"] == [full["macs"] // 2, 64 * (27 * 4 + 4 * 9 * 6 + 6 * 9 * 4) + 4 * 5]
    assert totals["activations"][0] == full["activations"] // 2  # the example has two samples
    assert mutator.current_choices == {STREAM: 4, HIDDEN: 6}  # nothing was set


def test_modules_add_up_to_the_totals() -> None:
    mutator = prepared()
    mutator.set_choices({STREAM: 4})
    data = gather(mutator)
    for name in ("macs", "params", "activations"):
        for when in (0, 1):
            assert sum(module[name][when] for module in data["modules"] if name in module) == data["totals"][name][when]
    types = {module["name"]: module["type"] for module in data["modules"]}
    assert types == {
        "": "Residual",
        "stem": "Conv2d",
        "norm": "BatchNorm2d",
        "conv1": "Conv2d",
        "conv2": "Conv2d",
        "head": "Linear",
    }


def test_what_a_unit_saves_is_what_its_full_width_would_add() -> None:
    mutator = prepared()
    mutator.set_choices({STREAM: 4, HIDDEN: 6})
    units = {unit["name"]: unit for unit in gather(mutator)["units"]}
    now, wider = count_resources(mutator.model), count_resources(mutator.model, {HIDDEN: 12})
    saved = units[HIDDEN]["saved"]
    assert saved["params"] == wider["params"] - now["params"]
    assert saved["macs"] == (wider["macs"] - now["macs"]) // 2
    assert units["head_(0, 5)_5"]["saved"] is None


def test_a_unit_says_what_it_is() -> None:
    mutator = prepared()
    mutator.keep_channels({STREAM: [0, 1, 2, 5]})
    units = {unit["name"]: unit for unit in gather(mutator)["units"]}
    stream, hidden = units[STREAM], units[HIDDEN]
    assert (stream["active"], stream["channels"], stream["widths"]) == (4, 8, "2, 4, 6, 8")
    assert (stream["kept"], hidden["kept"]) == ("0–2, 5", None)  # noqa: RUF001
    assert hidden["widths"] == "2 to 12 by 2"
    assert (stream["written"], stream["read"], stream["through"]) == (["stem", "conv2"], ["conv1", "head"], ["norm"])
    fixed = units["stem_(0, 3)_3"]
    assert not fixed["mutable"]
    assert fixed["reason"] == "meets the model's input"
    assert fixed["place"].startswith("convolution in stem")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ({"type": "OneShotMutableChannelUnit", "default_args": {"candidate_choices": [0.25, 0.5, 1.0]}}, "5, 10, 20"),
        ({"type": "SequentialMutableChannelUnit"}, "1 to 20"),
        ({"type": "OneShotMutableChannelUnit", "default_args": {"candidate_choices": [0.5]}}, "10"),
        (
            {
                "type": "OneShotMutableChannelUnit",
                "default_args": {"candidate_choices": [*range(1, 14), 20], "choice_mode": "number"},
            },
            "1 to 20, 14 of them",
        ),
    ],
)
def test_the_widths_that_a_unit_may_have(unit: dict[str, object], expected: str) -> None:
    mutator = ChannelMutator(unit)
    mutator.prepare_from_supernet(nn.Sequential(nn.Linear(4, 20), nn.Linear(20, 2)), torch.randn(1, 4))
    assert gather(mutator)["units"][1]["widths"] == expected


def test_ranges() -> None:
    assert ranges([]) == ""
    assert ranges([3]) == "3"
    assert ranges([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8"  # noqa: RUF001


def test_without_a_trace_it_says_what_is_known() -> None:
    """A model of dynamic ops and mutables is never run: parameters alone are counted."""
    traced = prepared()
    structure = traced.structure()
    del structure["template"]["parse_cfg"]["costs"]
    model = traced.restore()
    mutator = ChannelMutator.from_structure(structure)
    mutator.prepare_from_supernet(model)
    data = gather(mutator)
    assert list(data["totals"]) == ["params"]
    assert data["versions"]["lightning-channels"] == lightning_channels.__version__
    assert data["proof"].startswith("not proven")
