"""The mutator: sampling, setting, templates, and the structure that needs no tracer."""

from __future__ import annotations

import copy
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from torch import Tensor, nn
from zoo import Everything, Toy, images

from lightning_channels import (
    MODELS,
    ChannelMutator,
    ChoiceError,
    ConfigError,
    OneShotMutableChannelUnit,
    PrepareError,
    StructureError,
    build,
    count_resources,
    find_mutator,
)
from lightning_channels._plain import read_file, write_file

CONV0, CONV1 = "net.conv0_(0, 8)_8", "net.conv1_(0, 16)_16"
RATIO = {"type": "SequentialMutableChannelUnit", "default_args": {"choice_mode": "ratio"}, "units": {}}


def prepared(model: nn.Module | None = None, **kwargs: Any) -> ChannelMutator:
    mutator = ChannelMutator(**kwargs)
    mutator.prepare_from_supernet(Toy() if model is None else model, images())
    return mutator


def test_sample_and_set() -> None:
    mutator = prepared()
    assert mutator.sample_choices("max") == {CONV0: 8, CONV1: 16}
    assert mutator.sample_choices("min") == {CONV0: 1, CONV1: 1}
    draws = [mutator.sample_choices("random", random.Random(i)) for i in range(200)]
    assert {draw[CONV0] for draw in draws} == set(range(1, 9))
    assert draws[3] == mutator.sample_choices(rng=random.Random(3))
    mutator.set_choices({CONV0: 3})
    assert mutator.current_choices == mutator.choice_template == {CONV0: 3, CONV1: 16}
    assert mutator.model.net.conv1.weight.shape == (16, 3, 3, 3)
    assert [unit.name for unit in mutator.mutable_units] == [CONV0, CONV1]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"net.conv0_(0, 8)_9": 3}, r"unknown unit 'net.conv0_\(0, 8\)_9'; did you mean 'net.conv0_\(0, 8\)_8'"),
        ({CONV0: 9}, r"choice 9 of unit 'net.conv0_\(0, 8\)_8' is out of range; allowed are whole numbers from 1 to 8"),
        ({CONV0: 0.5}, r"choice 0.5 of unit .* is fractional"),
        ({"head_(0, 1000)_1000": 10}, r"can't change \(reaches the model's output\)"),
        ({"net.conv0_(0, 3)_3": 2}, r"can't change"),
    ],
)
def test_bad_choices_change_nothing(choices: dict[str, float], message: str) -> None:
    mutator = prepared()
    mutator.set_choices({CONV1: 5})
    with pytest.raises(ChoiceError, match=message):
        mutator.set_choices({CONV1: 7, **choices})
    assert mutator.current_choices == {CONV0: 8, CONV1: 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channel_unit_cfg": "SequentialMutableChanelUnit"}, "did you mean 'SequentialMutableChannelUnit'"),
        ({"channel_unit_cfg": {"typ": "sequential"}}, "channel_unit_cfg takes no key 'typ'; did you mean 'type'"),
        (
            {"channel_unit_cfg": {"default_args": {"choice_mod": "ratio"}}},
            "takes no argument 'choice_mod'; did you mean 'choice_mode'",
        ),
        ({"channel_unit_cfg": {"units": {CONV0: {"choise": 3}}}}, "did you mean 'choice'"),
        ({"channel_unit_cfg": {"units": {CONV0: {"init_args": {"divisr": 3}}}}}, "did you mean 'divisor'"),
        ({"channel_unit_cfg": 3}, "must be a unit class, its name or a dict"),
        ({"channel_unit_cfg": dict}, "dict is no MutableChannelUnit"),
        ({"parse_cfg": {"type": "ForwardTracr"}}, "unknown tracer type 'ForwardTracr'; did you mean 'ForwardTracer'"),
        ({"parse_cfg": {"type": "BackwardTracr"}}, "tracer type 'BackwardTracr'; did you mean 'BackwardTracer'"),
        ({"parse_cfg": {"type": "ForwardTracer", "shape": (1, 3)}}, "takes no argument 'shape'"),
    ],
)
def test_bad_configs(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ChannelMutator(**arguments)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"net.conv0_(0, 8)_9": {}}, r"unit 'net.conv0_\(0, 8\)_9', which the model doesn't have; did you mean"),
        ({CONV0: {"init_args": {"num_channels": 9}}}, "has 8 channels, its config says 9"),
        ({CONV0: {"choice": 99}}, "out of range"),
    ],
)
def test_a_config_that_does_not_fit_leaves_the_model_alone(units: dict[str, Any], message: str) -> None:
    model = Toy()
    mutator = ChannelMutator({"units": units})
    with pytest.raises(ConfigError, match=message):
        mutator.prepare_from_supernet(model, images())
    assert type(model.net.conv0) is nn.Conv2d
    assert set(model.net.conv0.__dict__) == set(Toy().net.conv0.__dict__)
    with pytest.raises(PrepareError, match="no model is prepared"):
        _ = mutator.units


def test_init_args_are_merged_over_the_defaults() -> None:
    config = {**RATIO, "units": {CONV0: {"init_args": {"divisor": 4}}}}
    given = copy.deepcopy(config)
    mutator = prepared(channel_unit_cfg=config)
    assert config == given
    unit = mutator.name2unit[CONV0]
    assert (unit.choice_mode, unit.divisor) == ("ratio", 4)
    assert mutator.name2unit[CONV1].divisor == 1


def test_unit_type_by_class_and_name() -> None:
    by_class = prepared(channel_unit_cfg=OneShotMutableChannelUnit)
    by_name = prepared(channel_unit_cfg="one_shot")
    assert by_class.config_template() == by_name.config_template()
    assert by_class.mutable_units[0].candidate_choices == [0.5, 1.0]


@pytest.mark.parametrize("only_mutable", [False, True])
@pytest.mark.parametrize("with_init_args", [False, True])
@pytest.mark.parametrize("with_channels", [False, True])
def test_template_in_all_combinations(only_mutable: bool, with_init_args: bool, with_channels: bool) -> None:
    mutator = prepared(channel_unit_cfg=RATIO)
    mutator.set_choices({CONV0: 0.25})
    template = mutator.config_template(only_mutable, with_init_args, with_channels)
    assert list(template) == ["type", "channel_unit_cfg", "parse_cfg"]
    assert template["type"] == "ChannelMutator"
    assert template["parse_cfg"] == {"type": "ForwardTracer"}
    config = template["channel_unit_cfg"]
    assert list(config) == ["type", "default_args", "units"]
    assert config["default_args"] == {"choice_mode": "ratio"}
    names = [CONV0, CONV1] if only_mutable else ["net.conv0_(0, 3)_3", CONV0, CONV1, "head_(0, 1000)_1000"]
    assert list(config["units"]) == names
    keys = [key for key, on in (("init_args", with_init_args), ("channels", with_channels), ("choice", True)) if on]
    assert all(list(unit) == keys for unit in config["units"].values())
    assert config["units"][CONV0]["choice"] == 0.25
    json.dumps(template)
    again = build(template)
    again.prepare_from_supernet(Toy(), images())
    assert again.config_template(only_mutable, with_init_args, with_channels) == template
    assert again.current_choices == {CONV0: 0.25, CONV1: 1.0}


@pytest.mark.parametrize("through", ["json", "yaml", "omegaconf"])
def test_template_through_files(through: str) -> None:
    mutator = prepared(channel_unit_cfg={"type": "one_shot", "default_args": {"candidate_choices": [0.25, 1.0]}})
    mutator.set_choices(mutator.sample_choices("min"))
    template = mutator.config_template(with_unit_init_args=True, with_channels=True)
    loaded = {
        "json": lambda: json.loads(json.dumps(template)),
        "yaml": lambda: yaml.safe_load(yaml.safe_dump(template)),
        "omegaconf": lambda: OmegaConf.create(template),
    }[through]()
    again = MODELS.build(loaded)
    again.prepare_from_supernet(Toy(), images())
    assert again.config_template(with_unit_init_args=True, with_channels=True) == template


class Untraceable(Everything):
    """The same modules, but it can't be run."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the forward pass was run")


def test_a_structure_needs_no_tracer(tmp_path: Path) -> None:
    model = Everything()
    inputs = torch.randn(2, 3, 2, 4, 4)
    mutator = ChannelMutator(RATIO)
    mutator.prepare_from_supernet(model, inputs)
    mutator.set_choices({unit.name: 0.5 for unit in mutator.mutable_units})
    path = write_file(tmp_path / "net.yaml", mutator.structure())
    structure = read_file(path)
    assert list(structure) == ["version", "template", "choices", "fingerprint"]
    again = ChannelMutator.from_structure(structure)
    other = Untraceable()
    other.load_state_dict(model.state_dict())
    again.prepare_from_supernet(other)
    assert again.structure() == structure == mutator.structure()
    assert again.current_choices == mutator.current_choices
    assert count_resources(other) == count_resources(model)
    with torch.no_grad():
        model.eval(), other.eval()
        assert torch.equal(Everything.forward(other, inputs), model(inputs))


def test_a_structure_in_a_new_process(tmp_path: Path) -> None:
    mutator = prepared()
    mutator.set_choices({CONV0: 3})
    path = write_file(tmp_path / "toy.json", mutator.structure())
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from zoo import Toy;"
        "from lightning_channels import ChannelMutator;"
        "from lightning_channels._plain import read_file; m = ChannelMutator.from_structure(read_file(sys.argv[2]));"
        "m.prepare_from_supernet(Toy()); print(m.current_choices)"
    )
    tests = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code, tests, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str({CONV0: 3, CONV1: 16})


class OtherHead(Toy):
    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.net[2] = nn.Conv2d(8, width, 3, 1, 1)
        self.net = nn.Sequential()
        toy = Toy()
        self.net.add_module("conv0", toy.net.conv0)
        self.net.add_module("relu", toy.net.relu)
        self.net.add_module("conv1", nn.Conv2d(8, width, 3, 1, 1))
        self.head = nn.Linear(width, classes)


def test_another_head_is_no_difference() -> None:
    mutator = prepared()
    mutator.set_choices({CONV0: 2})
    structure = mutator.structure()
    other = prepared(OtherHead())
    other.load_structure(structure)
    assert other.current_choices == {CONV0: 2, CONV1: 16}
    rebuilt = ChannelMutator.from_structure(structure)
    rebuilt.prepare_from_supernet(OtherHead())
    assert rebuilt.current_choices == {CONV0: 2, CONV1: 16}
    assert "head_(0, 1000)_1000" not in rebuilt.name2unit


def test_other_units_are_refused_by_name() -> None:
    structure = prepared().structure()
    other = prepared(OtherHead(width=12))
    with pytest.raises(StructureError) as error:
        other.load_structure(structure)
    assert f"{CONV1!r} is in the checkpoint but not in the model" in str(error.value)
    assert "'net.conv1_(0, 12)_12' is in the model but not in the checkpoint" in str(error.value)
    assert CONV0 not in str(error.value)
    assert other.current_choices == {CONV0: 8, "net.conv1_(0, 12)_12": 12}
    model = OtherHead(width=12)
    with pytest.raises(StructureError, match="12 positions"):
        ChannelMutator.from_structure(structure).prepare_from_supernet(model)
    assert type(model.net.conv0) is nn.Conv2d
    wide = OtherHead(width=24)
    with pytest.raises(StructureError, match=r"conv1_\(0, 16\)_16'.*was \[16, 8, 3, 3\] and is \[24, 8, 3, 3\]"):
        ChannelMutator.from_structure(structure).prepare_from_supernet(wide)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "has version 99; this release reads version 1"),
        ({"choices": 3}, "'choices' of a structure must be a dict"),
        ({"extra": 1}, "takes no key 'extra'"),
        ({"choices": {"nothing": 3}}, "a choice for the unit 'nothing'"),
    ],
)
def test_bad_structures(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        ChannelMutator.from_structure({**prepared().structure(), **change})


def test_a_missing_key_in_a_structure() -> None:
    structure = prepared().structure()
    del structure["fingerprint"]
    with pytest.raises(StructureError, match="has no 'fingerprint'"):
        ChannelMutator.from_structure(structure)


def test_types_in_a_structure_are_names_in_our_registry() -> None:
    structure = prepared().structure()
    structure["template"]["channel_unit_cfg"]["type"] = "os.system"
    with pytest.raises(ConfigError, match=r"unknown unit type 'os.system'"):
        ChannelMutator.from_structure(structure)


def test_restore() -> None:
    model = Toy()
    mutator = prepared(model)
    assert find_mutator(model) is mutator
    mutator.set_choices({CONV0: 2})
    assert mutator.restore() is model
    assert find_mutator(model) is None
    assert [type(m) for m in model.modules()] == [type(m) for m in Toy().modules()]
    assert model.net.conv0.weight.shape[0] == 8
    mutator.prepare_from_supernet(model, images())
    assert mutator.current_choices == {CONV0: 8, CONV1: 16}


def test_export_from_the_mutator() -> None:
    mutator = prepared()
    small = mutator.export(choices={CONV0: 3, CONV1: 5})
    assert small.net.conv1.weight.shape == (5, 3, 3, 3)
    assert mutator.current_choices == {CONV0: 8, CONV1: 16}


def test_a_prepared_model_pickles_with_a_mutator_of_its_own() -> None:
    model = Everything().eval()
    mutator = ChannelMutator()
    inputs = torch.randn(2, 3, 2, 4, 4)
    mutator.prepare_from_supernet(model, inputs)
    mutator.set_choices(mutator.sample_choices("random", random.Random(0)))
    again = pickle.loads(pickle.dumps(model))
    own = find_mutator(again)
    assert own is not None
    assert own.current_choices == mutator.current_choices
    assert torch.equal(again(inputs), model(inputs))
    own.set_choices(own.sample_choices("min"))
    assert mutator.current_choices != own.current_choices
    assert again.line.weight.shape == (2, 3, 3)  # two groups read it, three normalise what it reads


class Halved(nn.Module):
    """Its first unit can't change: the forward pass takes a fixed slice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(self.a(x).view(-1, 8))))


def test_refused_units_stand_at_full_width_and_the_others_at_their_largest_candidate() -> None:
    model = Halved()
    mutator = ChannelMutator({"type": "one_shot", "default_args": {"candidate_choices": [0.25, 0.5]}})
    mutator.prepare_from_supernet(model, torch.randn(3, 4))
    refused, free = mutator.name2unit["a_(0, 8)_8"], mutator.name2unit["b_(0, 8)_8"]
    assert not refused.is_mutable
    assert refused.why_not().startswith("the model fails when it is narrow: RuntimeError: shape '[-1, 8]'")
    assert refused.current_choice == 1.0
    assert free.current_choice == 0.5
    assert model.b.weight.shape == (4, 8)
    assert list(mutator.sample_choices("max")) == ["b_(0, 8)_8"]
    with pytest.raises(ChoiceError, match="none of its candidates"):
        mutator.set_choices({"b_(0, 8)_8": 1.0})
