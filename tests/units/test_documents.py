"""What the seed notebook prints about units."""

from __future__ import annotations

import pytest
import torch
from printed import CONVS, UNIT, assert_toy_units
from torch import nn
from zoo import Toy

from lightning_channels import ConfigError, ModuleGraph, SequentialMutableChannelUnit, StructureError

CONFIG = {
    "init_args": {"num_channels": 8},
    "channels": {"input_related": [{"name": "net.conv1"}], "output_related": [{"name": "net.conv0"}]},
    "choice": 8,
}


def test_units_from_a_graph() -> None:
    units = SequentialMutableChannelUnit.init_from_graph(ModuleGraph.init_from_forward_tracer(Toy()))
    assert_toy_units(units)
    assert not units[0].output_related
    assert not units[3].input_related
    assert repr(units[1]) == UNIT


def test_prepare_a_single_unit() -> None:
    model = Toy()
    unit = SequentialMutableChannelUnit.init_from_graph(ModuleGraph.init_from_forward_tracer(model))[1]
    unit.prepare_for_pruning(model)
    assert unit.current_choice == 8
    assert f"{model.net.conv0!r}\n{model.net.conv1!r}" == CONVS.format(active=8)
    unit.current_choice = 2
    assert f"{model.net.conv0!r}\n{model.net.conv1!r}" == CONVS.format(active=2)
    assert model.net[:2](torch.randn(1, 3, 4, 4)).shape == (1, 2, 4, 4)
    assert model(torch.randn(1, 3, 4, 4)).shape == (1, 1000)


def test_unit_from_a_config() -> None:
    model = Toy()
    unit = SequentialMutableChannelUnit.init_from_cfg(model, CONFIG)
    assert repr(unit) == UNIT
    narrow = SequentialMutableChannelUnit.init_from_cfg(model, {**CONFIG, "choice": 3})
    assert narrow.current_choice == 3
    narrow.prepare_for_pruning(model)
    assert model.net.conv0.weight.shape[0] == 3


def test_channels_alone_say_how_many_they_are() -> None:
    ends = {"input_related": [{"name": "net.conv1", "end": 8}], "output_related": [{"name": "net.conv0"}]}
    assert repr(SequentialMutableChannelUnit.init_from_cfg(Toy(), {"channels": ends})) == UNIT
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 9, 2))
    repeated = {"name": "2", "start": 0, "end": 36, "expand_ratio": 9}
    interleaved = {"name": "2", "start": 0, "end": 36, "index": [0, 2, 1, 3] * 9}
    for entry in (repeated, interleaved):
        config = {"channels": {"output_related": [{"name": "0"}], "input_related": [entry]}, "choice": 3}
        unit = SequentialMutableChannelUnit.init_from_cfg(model, config)
        assert (unit.name, unit.num_channels, unit.current_choice) == ("0_(0, 4)_4", 4, 3)


def test_template_round_trip() -> None:
    model = Toy()
    unit = SequentialMutableChannelUnit.init_from_graph(ModuleGraph.init_from_forward_tracer(model))[1]
    unit.current_choice = 5
    template = unit.config_template(with_init_args=True, with_channels=True)
    assert template == {
        "init_args": {"num_channels": 8, "choice_mode": "number", "divisor": 1, "min_value": 1, "min_ratio": 0.9},
        "channels": {
            "input_related": [
                {"name": "net.conv1", "start": 0, "end": 8, "expand_ratio": 1, "is_output_channel": False}
            ],
            "output_related": [
                {"name": "net.conv0", "start": 0, "end": 8, "expand_ratio": 1, "is_output_channel": True}
            ],
        },
        "choice": 5,
    }
    assert list(template) == ["init_args", "channels", "choice"]
    again = SequentialMutableChannelUnit.init_from_cfg(Toy(), template)
    assert again.config_template(with_init_args=True, with_channels=True) == template
    assert unit.config_template() == {"choice": 5}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"init_arg": {}}, ConfigError, "takes no key 'init_arg'; did you mean 'init_args'"),
        ({"init_args": {"num_channels": 8, "divisr": 2}}, ConfigError, "no argument 'divisr'; did you mean 'divisor'"),
        ({"init_args": {}}, ConfigError, "needs init_args with num_channels, or channels with start and end"),
        ({"init_args": 8}, ConfigError, "must be a dict, got 8"),
        ({"channels": {"output_related": {"name": "net.conv0"}}}, ConfigError, "output_related .* must be a list"),
        (
            {"channels": {"output_related": [{"name": "net.conv0", "index": ["a"]}]}},
            ConfigError,
            "'index' of the channel 'net.conv0' must be a list of integers",
        ),
        ({"init_args": {}, "channels": {"outputs_related": []}}, ConfigError, "did you mean 'output_related'"),
        ({"init_args": {}, "channels": {"output_related": [{"end": "8"}]}}, ConfigError, "'end' .* must be an integer"),
        (
            {"init_args": {"num_channels": 8, "divisor": 0}},
            ConfigError,
            r"unit 'net.conv0_\(0, 8\)_8': divisor must be",
        ),
        ({"channels": {"output_related": [{"nme": "net.conv0"}]}}, ConfigError, "did you mean 'name'"),
        ({"channels": {"output_related": [{"name": "net.conv00"}]}}, StructureError, "did you mean 'net.conv0'"),
        ({"channels": {"output_related": [{"name": "net.relu"}]}}, StructureError, "a ReLU, which has none"),
        (
            {"channels": {"output_related": [{"name": "net.conv0", "start": 4, "end": 12}]}},
            StructureError,
            "8 positions",
        ),
        ({"channels": {"output_related": [{"name": "net.conv0", "end": 4}]}}, ConfigError, "needs 8"),
        ({"choice": 9}, ConfigError, "out of range"),
    ],
)
def test_bad_configs(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SequentialMutableChannelUnit.init_from_cfg(Toy(), {**CONFIG, **change})
