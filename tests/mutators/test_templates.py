"""Templates: what they hold, key by key, and that a mutator built from one is equal."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models import resnet34
from zoo import Everything, Toy, images

from lightning_channels import (
    MODELS,
    MUTATORS,
    UNITS,
    ChannelMutator,
    ConfigError,
    OneShotMutableChannelUnit,
    SequentialMutableChannelUnit,
    build,
)

FLAGS = list(product([False, True], repeat=3))
RATIO = {"type": "SequentialMutableChannelUnit", "default_args": {"choice_mode": "ratio"}, "units": {}}
BACKWARD = {"type": "BackwardTracer", "loss_calculator": {"type": "ImageClassifierPseudoLoss"}}
ARGS = {"choice_mode": "ratio", "divisor": 1, "min_value": 1, "min_ratio": 0.9}


def channel(name: str, size: int, is_output: bool) -> dict[str, Any]:
    return {"name": name, "start": 0, "end": size, "expand_ratio": 1, "is_output_channel": is_output}


# name -> number of channels, what reads them, what gives them, its choice, whether it can change
UNITS_OF_TOY: dict[str, tuple[int, list[str], list[str], float, bool]] = {
    "net.conv0_(0, 3)_3": (3, ["net.conv0"], [], 1.0, False),
    "net.conv0_(0, 8)_8": (8, ["net.conv1"], ["net.conv0"], 0.25, True),
    "net.conv1_(0, 16)_16": (16, ["head"], ["net.conv1"], 1.0, True),
    "head_(0, 1000)_1000": (1000, [], ["head"], 1.0, False),
}


def expected(only_mutable: bool, with_init_args: bool, with_channels: bool) -> dict[str, Any]:
    """The template of the document, written out."""
    units = {}
    for name, (size, reading, giving, choice, mutable) in UNITS_OF_TOY.items():
        if only_mutable and not mutable:
            continue
        unit: dict[str, Any] = {}
        if with_init_args:
            unit["init_args"] = {"num_channels": size, **ARGS}
        if with_channels:
            unit["channels"] = {
                "input_related": [channel(module, size, False) for module in reading],
                "output_related": [channel(module, size, True) for module in giving],
            }
        units[name] = {**unit, "choice": choice}
    config = {"type": "SequentialMutableChannelUnit", "default_args": {"choice_mode": "ratio"}, "units": units}
    return {"type": "ChannelMutator", "channel_unit_cfg": config, "parse_cfg": BACKWARD}


def in_order(data: Any) -> Any:
    """Dicts as lists of pairs, which are equal only in the same order."""
    if isinstance(data, dict):
        return [(key, in_order(value)) for key, value in data.items()]
    return [in_order(value) for value in data] if isinstance(data, list) else data


def prepared(config: Any = "SequentialMutableChannelUnit", parse_cfg: Any = None) -> ChannelMutator:
    mutator = ChannelMutator(config, parse_cfg)
    mutator.prepare_from_supernet(Toy(), images())
    return mutator


@pytest.fixture(scope="module")
def mutator() -> ChannelMutator:
    found = prepared(RATIO, BACKWARD)
    found.set_choices({"net.conv0_(0, 8)_8": 0.25})
    return found


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_all_eight_templates_key_by_key(mutator: ChannelMutator, flags: tuple[bool, bool, bool]) -> None:
    template = mutator.config_template(*flags)
    assert in_order(template) == in_order(expected(*flags))
    names = ("only_mutable_units", "with_unit_init_args", "with_channels")
    assert mutator.config_template(**dict(zip(names, flags, strict=True))) == template


WAYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "itself": lambda template: template,
    "json": lambda template: json.loads(json.dumps(template)),
    "yaml": lambda template: yaml.safe_load(yaml.safe_dump(template, sort_keys=False)),
    "omegaconf": lambda template: OmegaConf.create(template),
    "omegaconf yaml": lambda template: OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(template))),
}


@pytest.mark.parametrize("through", WAYS)
@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_what_is_built_from_a_template_is_equal(
    mutator: ChannelMutator, flags: tuple[bool, bool, bool], through: str
) -> None:
    template = mutator.config_template(*flags)
    given = WAYS[through](copy.deepcopy(template))
    again = MODELS.build(given)
    again.prepare_from_supernet(Toy(), images(), verify=False)
    assert given == template  # and what was given is as it was
    assert in_order(again.config_template(*flags)) == in_order(template)
    assert [repr(unit) for unit in again.units] == [repr(unit) for unit in mutator.units]
    assert again.current_choices == {"net.conv0_(0, 8)_8": 0.25, "net.conv1_(0, 16)_16": 1.0}


def test_in_a_new_process_on_a_fresh_model(mutator: ChannelMutator, tmp_path: Path) -> None:
    template = mutator.config_template(with_unit_init_args=True, with_channels=True)
    (tmp_path / "template.json").write_text(json.dumps(template))
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from zoo import Toy, images;"
        "from lightning_channels import MODELS;"
        "mutator = MODELS.build(json.load(open(sys.argv[2])));"
        "model = Toy(); mutator.prepare_from_supernet(model, images());"
        "print(json.dumps([mutator.config_template(False, True, True), list(model.net.conv0.weight.shape)]))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(tmp_path / "template.json")]
    again, shape = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert again == template
    assert shape == [2, 3, 3, 3]


class Unrun(Everything):
    """The same modules, but it must not be run."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the forward pass was run")


def test_a_template_with_channels_needs_no_forward_pass() -> None:
    traced = ChannelMutator(RATIO)
    inputs = torch.randn(2, 3, 2, 4, 4)
    traced.prepare_from_supernet(Everything(), inputs)
    traced.set_choices({unit.name: 0.5 for unit in traced.mutable_units})
    template = traced.config_template(with_unit_init_args=True, with_channels=True)
    template["parse_cfg"] = {"type": "Config"}
    model = Unrun()
    model.load_state_dict(traced.model.state_dict())
    again = build(json.loads(json.dumps(template)))
    again.prepare_from_supernet(model)
    assert again.config_template(False, True, True) == template
    assert [repr(unit) for unit in again.units] == [repr(unit) for unit in traced.units]
    model.eval(), traced.model.eval()
    assert torch.equal(Everything.forward(model, inputs), traced.model(inputs))
    with pytest.raises(ConfigError, match=r"has no channels; make the template with with_channels=True"):
        build({**traced.config_template(), "parse_cfg": {"type": "Config"}}).prepare_from_supernet(Unrun())


@pytest.mark.parametrize(
    ("config", "narrow"),
    [
        (RATIO, 0.5),
        ({"type": "one_shot"}, 0.5),
        # more than the input's three channels: a unit that can't change has no candidates
        ({"type": "slimmable", "default_args": {"candidate_choices": [4, 8]}}, 4),
    ],
    ids=["sequential", "one_shot", "slimmable"],
)
@pytest.mark.parametrize("flags", [flags for flags in FLAGS if flags[2]], ids=str)
def test_channels_without_init_args_are_enough(
    config: dict[str, Any], narrow: float, flags: tuple[bool, bool, bool]
) -> None:
    traced = prepared(config)
    traced.set_choices({"net.conv0_(0, 8)_8": narrow})
    template = {**traced.config_template(*flags), "parse_cfg": {"type": "Config"}}
    model = Toy()
    model.register_forward_pre_hook(lambda *_: pytest.fail("the forward pass was run"))
    again = build(json.loads(json.dumps(template)))
    again.prepare_from_supernet(model)
    assert in_order(again.config_template(*flags)) == in_order(template)
    units = traced.mutable_units if flags[0] else traced.units
    assert [unit.config_template(True, True) for unit in again.units] == [u.config_template(True, True) for u in units]


def test_channels_that_two_units_claim() -> None:
    template = prepared().config_template(True, True, True)
    units = template["channel_unit_cfg"]["units"]
    units["net.conv1_(0, 16)_16"]["channels"]["input_related"] = [{"name": "net.conv1", "start": 4, "end": 8}]
    units["net.conv1_(0, 16)_16"]["channels"]["input_related"][0]["index"] = [0, 1, 2, 3]
    model = Toy()
    template["parse_cfg"] = {"type": "Config"}
    with pytest.raises(ConfigError, match=r"unit 'net.conv1_\(0, 16\)_16' can't have Channel\(net.conv1, .* overlaps"):
        build(template).prepare_from_supernet(model)
    assert type(model.net.conv0) is nn.Conv2d


def test_candidates_that_a_template_left_out() -> None:
    units = {"net.conv0_(0, 8)_8": {"init_args": {"candidate_choices": [2, 8]}, "choice": 2}}
    traced = prepared({"type": "SlimmableChannelUnit", "units": units})
    again = build(traced.config_template())
    with pytest.raises(
        ConfigError, match=r"choice 2 of unit 'net.conv0_\(0, 8\)_8' .*given none: .*with_unit_init_args"
    ):
        again.prepare_from_supernet(Toy(), images())


@pytest.mark.parametrize("candidates", [[2.5, 8], [2, 9]])
@pytest.mark.parametrize("parse_cfg", [None, {"type": "Config"}], ids=["traced", "config"])
def test_a_candidate_that_is_not_allowed_names_its_unit(candidates: list[float], parse_cfg: dict[str, str]) -> None:
    template = prepared("SlimmableChannelUnit").config_template(True, False, True)
    template["channel_unit_cfg"]["units"]["net.conv0_(0, 8)_8"]["init_args"] = {"candidate_choices": candidates}
    template["parse_cfg"] = parse_cfg
    model = Toy()
    with pytest.raises(ConfigError, match=r"^the choice [\d.]+ of unit 'net.conv0_\(0, 8\)_8' is"):
        build(template).prepare_from_supernet(model, images())
    assert type(model.net.conv0) is nn.Conv2d


@pytest.mark.parametrize("reduced", [False, True])
def test_what_can_t_change_does_not_come_out_of_a_template_changeable(mutator: ChannelMutator, reduced: bool) -> None:
    (unit,) = [copy.deepcopy(unit) for unit in mutator.units if unit.name == "net.conv0_(0, 8)_8"]
    unit.reason, unit.reduced = "it fails when it is narrow", reduced
    if reduced:
        unit.input_related = []
    again = SequentialMutableChannelUnit.init_from_cfg(Toy(), {**unit.config_template(True, True), "choice": None})
    assert not again.is_mutable
    assert again.why_not() == "it fails when it is narrow"


def test_the_document_s_example() -> None:
    """ResNet-34: 22 units, the first of them the input's."""
    mutator = ChannelMutator(channel_unit_cfg=RATIO, parse_cfg=BACKWARD)
    mutator.prepare_from_supernet(resnet34())
    config = mutator.config_template(with_unit_init_args=True)
    assert list(config) == ["type", "channel_unit_cfg", "parse_cfg"]
    assert config["type"] == "ChannelMutator"
    assert {**config["channel_unit_cfg"], "units": {}} == RATIO
    assert config["parse_cfg"] == BACKWARD
    units = config["channel_unit_cfg"]["units"]
    assert (len(units), len(mutator.mutable_units)) == (22, 20)
    assert next(iter(units.items())) == (
        "conv1_(0, 3)_3",
        {
            "init_args": {
                "num_channels": 3,
                "choice_mode": "ratio",
                "divisor": 1,
                "min_value": 1,
                "min_ratio": 0.9,
            },
            "choice": 1.0,
        },
    )
    mutator2 = MODELS.build(config)
    mutator2.prepare_from_supernet(resnet34(), torch.zeros(1, 3, 64, 64), verify=False)
    assert mutator2.config_template(with_unit_init_args=True) == config


# --- what channel_unit_cfg can be ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        OneShotMutableChannelUnit,
        "OneShotMutableChannelUnit",
        "one_shot",
        {"type": "OneShotMutableChannelUnit"},
        {"type": OneShotMutableChannelUnit, "default_args": {}},
        {"type": "one_shot", "default_args": {"candidate_choices": [0.5, 1.0]}, "units": {}},
        OmegaConf.create({"type": "one_shot", "units": None}),
    ],
    ids=["class", "name", "alias", "dict", "dict with a class", "all keys", "OmegaConf"],
)
def test_a_unit_type_is_a_class_a_name_or_a_dict(given: Any) -> None:
    for mutator in (ChannelMutator(given), MODELS.build({"type": "ChannelMutator", "channel_unit_cfg": given})):
        mutator.prepare_from_supernet(Toy(), images(), verify=False)
        template = mutator.config_template()
        assert template["channel_unit_cfg"]["type"] == "OneShotMutableChannelUnit"
        assert [unit.candidate_choices for unit in mutator.mutable_units] == [[0.5, 1.0]] * 2
        assert build(template).unit_config.unit_class is OneShotMutableChannelUnit


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "ChannelMutatr"}, "unknown mutator type 'ChannelMutatr'; did you mean 'ChannelMutator'"),
        ({"channel_unit_cg": {}}, "takes no argument 'channel_unit_cg'; did you mean 'channel_unit_cfg'"),
        (
            {"channel_unit_cfg": {"type": "SequentialMutableChanelUnit"}},
            "unknown unit type .* did you mean 'SequentialMutableChannelUnit'",
        ),
        ({"channel_unit_cfg": {"default_arg": {}}}, "takes no key 'default_arg'; did you mean 'default_args'"),
        ({"channel_unit_cfg": {"default_args": {"choice_mod": "ratio"}}}, "did you mean 'choice_mode'"),
        ({"channel_unit_cfg": {"default_args": {"choice_mode": "ratios"}}}, "did you mean 'ratio'"),
        ({"channel_unit_cfg": {"units": {"net.conv0_(0, 8)_8": {"chanels": {}}}}}, "did you mean 'channels'"),
        ({"channel_unit_cfg": {"units": {"net.conv0_(0, 8)": {}}}}, r"did you mean 'net.conv0_\(0, 8\)_8'"),
        ({"channel_unit_cfg": {"units": 3}}, "units of channel_unit_cfg must be a dict or the path of a file, got 3"),
        ({"parse_cfg": {"type": "BackwardTracr"}}, "unknown tracer type .* did you mean 'BackwardTracer'"),
        ({"parse_cfg": {"type": "Confg"}}, "unknown tracer type 'Confg'; did you mean 'Config'"),
        ({"parse_cfg": {"typ": "Config"}}, r"must be a dict with a 'type', got .* Known: .*Config, Predefined"),
        ({"parse_cfg": {"type": "Config", "mac": {}}}, "takes no key 'mac'; did you mean 'macs'"),
        (
            {"parse_cfg": {**BACKWARD, "loss_calculater": {}}},
            "no argument 'loss_calculater'; did you mean 'loss_calculator'",
        ),
        (
            {"parse_cfg": {"type": "BackwardTracer", "loss_calculator": {"type": "ImageClassiferPseudoLoss"}}},
            "did you mean 'ImageClassifierPseudoLoss'",
        ),
    ],
)
def test_unknown_keys_names_and_types_name_the_nearest(change: dict[str, Any], message: str) -> None:
    model = Toy()
    with pytest.raises(ConfigError, match=message):
        build({"type": "ChannelMutator", **change}).prepare_from_supernet(model, images())
    assert type(model.net.conv0) is nn.Conv2d


@pytest.mark.parametrize("given", ["ChannelMutator", None, 3, {"channel_unit_cfg": {}}])
def test_what_is_no_template(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"config must be a dict with a 'type', got [^{}]*\. Known: Channel"):
        build(given)


def test_a_type_that_is_registered_under_another_name_goes_into_templates_by_that() -> None:
    UNITS.names(), MUTATORS.names()
    units, mutators = dict(UNITS._classes), dict(MUTATORS._classes)
    try:

        @UNITS.register("half")
        class Half(SequentialMutableChannelUnit):
            pass

        @MUTATORS.register("mine")
        class Mine(ChannelMutator):
            pass

        mutator = Mine(Half)
        mutator.prepare_from_supernet(Toy(), images(), verify=False)
        template = mutator.config_template()
        assert (template["type"], template["channel_unit_cfg"]["type"]) == ("mine", "half")
        again = build(template)
        assert (type(again), again.unit_config.unit_class) == (Mine, Half)
    finally:
        UNITS._classes, MUTATORS._classes = units, mutators
