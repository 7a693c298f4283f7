"""Models that are written with dynamic ops and mutables: their units, without a tracer."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import Toy, images

from lightning_channels import (
    ChannelMutator,
    ConfigError,
    DynamicBatchNorm2d,
    DynamicConv2d,
    DynamicGroupNorm,
    DynamicLinear,
    MutableChannelContainer,
    MutableChannelUnit,
    OneShotMutableChannelUnit,
    PrepareError,
    SequentialMutableChannelUnit,
    SimpleMutableChannel,
    SlimmableChannelUnit,
    SquentialMutableChannel,
    build,
    export_subnet,
    find_mutator,
    make_dynamic,
)

register = MutableChannelContainer.register_mutable_channel_to_module
CONV0, CONV1 = "net.conv0_(0, 8)_8", "net.conv1_(0, 16)_16"
PREDEFINED = {"type": "Predefined"}


class DynamicToy(nn.Module):
    """The notebook's predefined model."""

    def __init__(self, mutables: bool = True) -> None:
        super().__init__()
        self.net = nn.Sequential(
            OrderedDict(
                [("conv0", DynamicConv2d(3, 8, 3, 1, 1)), ("relu", nn.ReLU()), ("conv1", DynamicConv2d(8, 16, 3, 1, 1))]
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = DynamicLinear(16, 1000)
        MutableChannelUnit._register_channel_container(self, MutableChannelContainer)
        if mutables:
            self.first, self.second = SquentialMutableChannel(8), SquentialMutableChannel(16)
            register(self.net.conv0, self.first, is_to_output_channel=True)
            register(self.net.conv1, self.first, is_to_output_channel=False)
            register(self.net.conv1, self.second, is_to_output_channel=True)
            register(self.head, self.second, is_to_output_channel=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.net(x)).flatten(1))


class Unrun(DynamicToy):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the forward pass was run")


def prepared(model: nn.Module, config: Any = "SequentialMutableChannelUnit") -> ChannelMutator:
    mutator = ChannelMutator(config, PREDEFINED)
    mutator.prepare_from_supernet(model)
    return mutator


def test_units_take_over_the_mutables_of_the_model() -> None:
    model = DynamicToy()
    units = SequentialMutableChannelUnit.init_from_predefined_model(model)
    assert [unit.name for unit in units] == [CONV0, CONV1]
    assert [unit.mutable_channel for unit in units] == [model.first, model.second]
    assert all(unit.is_mutable for unit in units)
    units[0].current_choice = 3
    assert model.net.conv1.weight.shape == (16, 3, 3, 3)
    model.second.current_choice = 5
    assert units[1].current_choice == 5
    assert model(images()).shape == (2, 1000)


def test_the_units_are_those_that_a_tracer_finds_in_the_plain_model() -> None:
    predefined, traced = prepared(DynamicToy()), ChannelMutator()
    traced.prepare_from_supernet(Toy(), images())
    assert [repr(unit) for unit in predefined.units] == [repr(unit) for unit in traced.mutable_units]
    templates = [m.config_template(True, True, True)["channel_unit_cfg"] for m in (predefined, traced)]
    assert templates[0] == templates[1]


def test_a_template_of_it_prepares_the_plain_model_without_running_it() -> None:
    predefined = prepared(DynamicToy())
    predefined.set_choices({CONV0: 3})
    template = {
        **predefined.config_template(with_unit_init_args=True, with_channels=True),
        "parse_cfg": {"type": "Config"},
    }
    plain = Toy()
    plain.load_state_dict(predefined.model.state_dict())
    again = build(json.loads(json.dumps(template)))
    again.prepare_from_supernet(plain)
    assert again.current_choices == {CONV0: 3, CONV1: 16}
    x = images()
    assert torch.equal(plain(x), predefined.model(x))


def test_a_mutator_runs_nothing_and_builds_again_from_its_template() -> None:
    mutator = prepared(Unrun(), {"type": "one_shot", "default_args": {"candidate_choices": [0.25, 0.5]}})
    assert mutator.current_choices == {CONV0: 0.5, CONV1: 0.5}
    mutator.set_choices({CONV0: 0.25})
    template = mutator.config_template(with_unit_init_args=True)
    assert template["parse_cfg"] == PREDEFINED
    again = build(template)
    again.prepare_from_supernet(Unrun())
    assert again.config_template(with_unit_init_args=True) == template
    structure = mutator.structure()
    assert structure["template"]["parse_cfg"] == PREDEFINED
    third = ChannelMutator.from_structure(structure)
    third.prepare_from_supernet(Unrun())
    assert third.current_choices == {CONV0: 0.25, CONV1: 0.5}
    assert third.structure() == structure
    assert "not proven" in str(mutator.report())


def test_settings_of_a_single_unit() -> None:
    mutator = prepared(DynamicToy(), {"units": {CONV1: {"init_args": {"divisor": 4}, "choice": 6}}})
    assert mutator.current_choices == {CONV0: 8, CONV1: 8}
    assert [unit.divisor for unit in mutator.units] == [1, 4]


def test_export_is_plain_and_computes_the_same() -> None:
    model = DynamicToy()
    mutator = prepared(model)
    mutator.set_choices({CONV0: 3, CONV1: 7})
    small = mutator.export()
    assert [type(m) for m in small.modules()][2:5] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert small.net.conv1.weight.shape == (7, 3, 3, 3)
    x = images()
    assert torch.equal(small(x), model(x))
    assert torch.equal(export_subnet(model, {CONV0: 2})(x), mutator.export(choices={CONV0: 2})(x))


def test_a_predefined_model_keeps_the_channels_that_it_is_told_to() -> None:
    model = DynamicToy()
    mutator = prepared(model)
    mutator.name2unit[CONV0].rank([0, 5, 1, 4, 0, 3, 0, 2])
    mutator.set_choices({CONV0: 3})
    mutator.keep_channels({CONV1: [0, 2, 15]})
    assert model.first.kept.tolist() == [1, 3, 5]
    again = ChannelMutator.from_structure(mutator.structure())
    twin = DynamicToy()
    again.prepare_from_supernet(twin)
    assert again.kept_channels() == mutator.kept_channels() == {CONV0: [1, 3, 5], CONV1: [0, 2, 15]}
    again.set_choices({CONV0: 4})
    assert twin.first.kept.tolist() == [1, 3, 5, 7]


def test_restore_gives_the_model_back_as_it_came() -> None:
    model = DynamicToy()
    model.first.keep([1, 4, 6])
    model.first.name = "mine"
    mutator = prepared(model, {"type": "one_shot", "default_args": {"candidate_choices": [0.5]}})
    assert model.net.conv0.weight.shape[0] == 4
    mutator.restore()
    assert find_mutator(model) is None
    assert model.first.kept.tolist() == [1, 4, 6]
    assert (model.first.owner, model.first.name) == (None, "mine")
    assert type(model.net.conv0) is DynamicConv2d
    mutator.prepare_from_supernet(model)
    assert mutator.current_choices == {CONV0: 0.5, CONV1: 0.5}


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"net.conv0_(0, 8)_9": {}}, r"which the model doesn't have; did you mean 'net.conv0_\(0, 8\)_8'"),
        ({CONV0: {"init_args": {"num_channels": 9}}}, "has 8 channels, its config says 9"),
        ({CONV1: {"choice": 0.4}}, "none of its candidates"),
    ],
)
def test_what_does_not_fit_leaves_the_model_alone(units: dict[str, Any], message: str) -> None:
    model = DynamicToy()
    model.first.current_choice = 7
    with pytest.raises(ConfigError, match=message):
        prepared(model, {"type": "one_shot", "default_args": {"candidate_choices": [0.5]}, "units": units})
    assert (model.first.activated_channels, model.second.activated_channels) == (7, 16)
    assert (model.first.owner, type(model.net.conv0), find_mutator(model)) == (None, DynamicConv2d, None)


def test_what_is_no_predefined_model_is_refused() -> None:
    with pytest.raises(PrepareError, match=r"Toy has no dynamic op.*find its units with a tracer"):
        prepared(Toy())
    with pytest.raises(PrepareError, match="none of the 3 dynamic ops of DynamicToy has a mutable"):
        SequentialMutableChannelUnit.init_from_predefined_model(DynamicToy(mutables=False))
    model = DynamicToy()
    with pytest.raises(PrepareError, match=r"written with dynamic ops takes parse_cfg=\{'type': 'Predefined'\}"):
        ChannelMutator().prepare_from_supernet(model, images())
    prepared(model)
    with pytest.raises(PrepareError, match="prepared already"):
        prepared(model)
    with pytest.raises(ConfigError, match=r"parse_cfg of type 'Predefined' takes no key 'macs'"):
        ChannelMutator(parse_cfg={"type": "Predefined", "macs": {}})
    with pytest.raises(ConfigError, match="unknown tracer type 'Predefind'; did you mean 'Predefined'"):
        ChannelMutator(parse_cfg={"type": "Predefind"})
    with pytest.raises(ConfigError, match="must be a dict with a 'type', got 'Predefined'"):
        ChannelMutator(parse_cfg="Predefined")  # type: ignore[arg-type]


def test_unit_types_and_kinds_of_mutables() -> None:
    model = DynamicToy(mutables=False)
    mutable = SimpleMutableChannel(8)
    register(model.net.conv0, mutable, is_to_output_channel=True)
    register(model.net.conv1, mutable, is_to_output_channel=False)
    (unit,) = OneShotMutableChannelUnit.init_from_predefined_model(model, {"candidate_choices": [0.25, 0.5]})
    assert (unit.current_choice, model.net.conv0.weight.shape[0]) == (0.5, 4)
    (any_,) = MutableChannelUnit.init_from_predefined_model(model)
    any_.keep([0, 7])
    assert mutable.kept.tolist() == [0, 7]
    with pytest.raises(
        ConfigError, match=r"steers a SlimmableMutableChannel, and the model has registered SimpleMutable"
    ):
        SlimmableChannelUnit.init_from_predefined_model(model)
    with pytest.raises(ConfigError, match="takes no argument 'divisr'; did you mean 'divisor'"):
        SequentialMutableChannelUnit.init_from_predefined_model(model, {"divisr": 2})


class Branches(nn.Module):
    """Two convolutions, concatenated and flattened: a side that two mutables tile, and one that repeats both."""

    def __init__(self, dynamic: bool = True) -> None:
        super().__init__()
        conv, norm, linear = (
            (DynamicConv2d, DynamicBatchNorm2d, DynamicLinear) if dynamic else (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
        )
        self.left, self.right = conv(3, 6, 3), conv(3, 4, 3)
        self.norm = norm(10)
        self.head = linear(10 * 4, 5)
        if dynamic:
            self.a, self.b = SquentialMutableChannel(6), SquentialMutableChannel(4)
            register(self.left, self.a)
            register(self.right, self.b)
            register(self.norm, [self.a, self.b])
            flat = [mutable.expand_mutable_channel(4) for mutable in (self.a, self.b)]
            register(self.head, flat, is_to_output_channel=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([self.left(x), self.right(x)], 1)).flatten(1))


def test_concatenated_and_flattened_channels_are_those_that_a_tracer_finds() -> None:
    predefined, traced = prepared(Branches()), ChannelMutator()
    plain = Branches(dynamic=False)
    plain.load_state_dict(predefined.model.state_dict())
    x = torch.randn(2, 3, 4, 4)
    traced.prepare_from_supernet(plain, x)
    assert [repr(unit) for unit in predefined.units] == [repr(unit) for unit in traced.mutable_units]
    choices = {"left_(0, 6)_6": 2, "right_(0, 4)_4": 3}
    predefined.set_choices(choices)
    traced.set_choices(choices)
    assert repr(predefined.model.head) == repr(plain.head)
    plain.eval(), predefined.model.eval()
    assert torch.equal(predefined.model(x), plain(x))


class Grouped(nn.Module):
    def __init__(self, *, split: bool = False, other: bool = False) -> None:
        super().__init__()
        self.stem = DynamicConv2d(3, 12, 1)
        self.norm = DynamicGroupNorm(2, 12)
        self.grouped = DynamicConv2d(12, 12, 3, groups=3)
        self.depthwise = DynamicConv2d(12, 12, 3, groups=12)
        first, second = SquentialMutableChannel(12), SquentialMutableChannel(12)
        halves = [SquentialMutableChannel(6), SquentialMutableChannel(6)]
        register(self.stem, halves if split else first)
        register(self.norm, halves if split else first)
        register(self.grouped, halves if split else first, is_to_output_channel=False)
        register(self.grouped, second)
        register(self.depthwise, second, is_to_output_channel=False)
        register(self.depthwise, SquentialMutableChannel(12) if other else second)

    def forward(self, x: Tensor) -> Tensor:
        return self.depthwise(self.grouped(self.norm(self.stem(x))))


def test_groups_keep_the_same_channels() -> None:
    model = Grouped()
    first, second = SequentialMutableChannelUnit.init_from_predefined_model(model)
    assert (first.groups, second.groups) == (6, 3)  # of 2 and of 3, both
    assert second.config_template(with_channels=True)["channels"]["groups"] == 3
    assert [channel.name for channel in second.input_related] == ["depthwise"]
    second.current_choice = 7
    assert second.mutable_channel.kept.tolist() == [0, 1, 4, 5, 8, 9]
    assert model(torch.randn(1, 3, 8, 8)).shape == (1, 6, 4, 4)
    assert (model.grouped.groups, model.depthwise.groups) == (3, 6)


def test_a_constraint_that_no_unit_can_keep_is_its_reason() -> None:
    units = SequentialMutableChannelUnit.init_from_predefined_model(Grouped(split=True))
    assert [unit.is_mutable for unit in units] == [False, False, True]
    assert units[0].why_not() == "norm has 2 groups, and its num_channels aren't this mutable's alone, in order"
    units = SequentialMutableChannelUnit.init_from_predefined_model(Grouped(other=True))
    assert [unit.is_mutable for unit in units] == [True, False, False]
    assert units[1].why_not() == "depthwise is depthwise, and its two sides are not the same mutables'"


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(8))
        self.width = 8

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, self.width) * self.gain


def test_bare_tensors_and_attributes_are_channels_too() -> None:
    net = nn.Sequential(DynamicLinear(4, 8), Scale(), DynamicLinear(8, 2))
    make_dynamic(net[1], {"gain": [0]}, ["width"])
    mutable = SquentialMutableChannel(8)
    register(net[0], mutable)
    net[1].channel_container(True, "gain").register_mutable(mutable)
    net[1].channel_container(True, "width").register_mutable(mutable)
    register(net[2], mutable, is_to_output_channel=False)
    (unit,) = SequentialMutableChannelUnit.init_from_predefined_model(net)
    assert [channel.label for channel in unit.output_related] == ["0", "1.gain"]
    assert [channel.label for channel in unit.input_related] == ["1.gain", "2"]
    assert [channel.label for channel in unit.attributes] == ["1.width"]
    again = SequentialMutableChannelUnit.init_from_cfg(net, unit.config_template(True, True))
    assert repr(again) == repr(unit)
    unit.current_choice = 3
    assert net(torch.randn(2, 4)).shape == (2, 2)


def test_a_copy_of_a_prepared_predefined_model_is_independent() -> None:
    model = DynamicToy()
    prepared(model).set_choices({CONV0: 3})
    other = copy.deepcopy(model)
    own = find_mutator(other)
    assert own is not None
    own.set_choices({CONV0: 5})
    assert (model.net.conv0.weight.shape[0], other.net.conv0.weight.shape[0]) == (3, 5)


class Counting(MutableChannelContainer):
    """A container of the user's own."""


def test_containers_of_a_class_of_ones_own() -> None:
    model = DynamicToy()
    model.first.current_choice = 3
    MutableChannelUnit._register_channel_container(model, Counting)
    assert type(model.net.conv0.mutable_attrs["out_channels"]) is Counting
    assert "(out_channels): Counting(num_channels=8, activated_channels=3)" in repr(model.net.conv0)
    model.first.current_choice = 5
    assert model.net.conv1.weight.shape == (16, 5, 3, 3)
    kept = model.net.conv0.mutable_attrs["out_channels"]
    MutableChannelUnit._register_channel_container(model, Counting)
    assert model.net.conv0.mutable_attrs["out_channels"] is kept
    assert len(SequentialMutableChannelUnit.init_from_predefined_model(model)) == 2
    with pytest.raises(ConfigError, match="must be MutableChannelContainer or a subclass, got <class 'dict'>"):
        MutableChannelUnit._register_channel_container(model, dict)  # type: ignore[arg-type]
