"""Every file in conf/ composes, resolves, and builds the object that it describes."""

import inspect
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_channels import _config, registry
from lightning_channels._config import config_dir, mutator_config
from lightning_channels.divisors import resolve_divisor
from lightning_channels.errors import ConfigError

GROUPS = [
    "callback",
    "criterion",
    "data",
    "experiment",
    "model",
    "module",
    "mutator",
    "sampler",
    "schedule",
    "search",
    "tracer",
    "trainer",
    "unit",
]
OPTIONS = sorted(path.relative_to(config_dir()).with_suffix("").as_posix() for path in config_dir().glob("*/*.yaml"))
MANDATORY = {"data/image_folder": ["data.root=images"], "sampler/fixed": ["sampler.choices=choices.yaml"]}
OPTIONAL = {"criterion", "experiment", "schedule", "search"}  # not there unless asked for
STEPS = ("start_step", "end_step", "interval")  # a schedule's, which the pruner takes out
REGISTRIES = {
    "unit": registry.UNITS,
    "tracer": registry.TRACERS,
    "mutator": registry.MUTATORS,
    "sampler": registry.SAMPLERS,
    "schedule": registry.SCHEDULES,
    "search": registry.SEARCHES,
    "criterion": registry.CRITERIA,
}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return compose("train", list(overrides))


def composed_option(option: str) -> DictConfig:
    return composed(option.replace("/", "="), *MANDATORY.get(option, []))


def test_the_groups_are_those_that_the_readme_names() -> None:
    assert sorted({option.split("/")[0] for option in OPTIONS}) == GROUPS


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_resolves(option: str) -> None:
    config = OmegaConf.to_container(composed_option(option), resolve=True, throw_on_missing=True)
    assert set(config) >= {*GROUPS, "seed", "optimizer", "report"} - OPTIONAL


@pytest.mark.parametrize("option", ["train", "prune", "prune_vit", *OPTIONS])
def test_every_file_begins_with_what_it_is(option: str) -> None:
    lines = (config_dir() / f"{option}.yaml").read_text().removeprefix("# @package _global_\n\n").split("\n")
    assert lines[0].startswith("# ")


@pytest.mark.parametrize("option", OPTIONS)
def test_every_target_takes_the_arguments_that_its_config_gives(option: str) -> None:
    node = OmegaConf.to_container(composed_option(option), resolve=True).get(option.split("/")[0])
    for given in targets(node):
        arguments = {key: value for key, value in given.items() if not key.startswith("_")}
        inspect.signature(get_object(given["_target_"])).bind(**arguments)


def targets(node: object) -> list[dict]:
    if not isinstance(node, dict):
        return []
    return ([node] if "_target_" in node else []) + [found for value in node.values() for found in targets(value)]


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.split("/")[0] in REGISTRIES])
def test_every_type_is_registered_and_takes_its_arguments(option: str) -> None:
    group = option.split("/")[0]
    node = OmegaConf.to_container(composed_option(option)[group], resolve=True)
    cls = REGISTRIES[group].get(node.pop("type"))
    for key in ("units", *STEPS):
        node.pop(key, None)
    registry.check_arguments(cls, node, option)


def test_models_run() -> None:
    digits = instantiate(composed("model=digits_resnet").model, _convert_="all")
    assert digits(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    vit = instantiate(composed("model=digits_vit").model)
    assert vit(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    vision = instantiate(composed("model=torchvision", "model.name=resnet18", "model.num_classes=7").model)
    assert vision(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    wide = instantiate(composed("model=torchvision", "model.name=mobilenet_v2", "+model.width_mult=1.5").model)
    assert wide.features[0][0].out_channels == 48


def test_the_callback_gets_all_groups_as_plain_data() -> None:
    config = composed("unit=one_shot", "unit.candidate_choices=[0.5,1.0]", "sampler.ratios=[0.5,1.0]", "seed=3")
    callback = instantiate(config.callback)
    assert callback.seed == 3
    assert callback.sampler.ratios == [0.5, 1.0]
    assert type(callback.sampler.ratios) is list


def test_the_mutator_template_is_plain_and_complete() -> None:
    template = mutator_config(composed("unit=one_shot", "unit.candidate_choices=[0.5,1]", "unit.divisor=4"))
    assert template == {
        "type": "ChannelMutator",
        "channel_unit_cfg": {
            "type": "OneShotMutableChannelUnit",
            "default_args": {
                "candidate_choices": [0.5, 1],
                "choice_mode": "ratio",
                "divisor": 4,
                "min_value": 1,
                "min_ratio": 0.9,
            },
            "units": {},
        },
        "parse_cfg": {"type": "ForwardTracer", "input_shape": [1, 1, 8, 8], "attention": "heads"},
    }
    assert type(template["channel_unit_cfg"]["default_args"]["candidate_choices"]) is list


def test_units_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "units.yaml"
    path.write_text("'stem.0_(0, 16)_16': {choice: 0.5}\n")
    template = mutator_config(composed(f"mutator.units={path}"))
    mutator = registry.build(template)
    mutator.prepare_from_supernet(instantiate(composed().model, _convert_="all"), verify=False)
    assert mutator.current_choices["stem.0_(0, 16)_16"] == 0.5


@pytest.mark.parametrize("config", [{}, {"unit": None}, {"unit": {"divisor": 8}}])
def test_a_group_that_is_missing_or_untyped_is_named(config: dict) -> None:
    with pytest.raises(ConfigError, match="group 'unit' must be a dict with a 'type'"):
        mutator_config(config)


def test_an_experiment_overrides_the_defaults_and_the_command_line_overrides_it() -> None:
    assert composed("experiment=digits_slimmable").unit.type == "OneShotMutableChannelUnit"
    config = composed("experiment=digits_slimmable", "unit=sequential", "trainer.max_epochs=3", "optimizer.lr=0.2")
    assert (config.unit.type, config.trainer.max_epochs, config.optimizer.lr) == (
        "SequentialMutableChannelUnit",
        3,
        0.2,
    )


def test_a_broken_installation_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_config, "__file__", str(tmp_path / "lightning_channels" / "_config.py"))
    with pytest.raises(FileNotFoundError, match="install lightning-channels again"):
        config_dir()


def test_the_wheel_layout_is_preferred(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "lightning_channels"
    (package / "conf").mkdir(parents=True)
    (package / "conf" / "train.yaml").touch()
    monkeypatch.setattr(_config, "__file__", str(package / "_config.py"))
    assert config_dir() == package / "conf"


def test_a_criterion_and_a_search_write_out_the_defaults() -> None:
    """So that what a config says is what its class does without it."""
    for option in (option for option in OPTIONS if option.startswith(("criterion/", "search/"))):
        group = option.split("/")[0]
        given = OmegaConf.to_container(composed_option(option)[group])
        plain, built = (REGISTRIES[group].build(config) for config in ({"type": given["type"]}, given))
        assert repr(plain) == repr(built), option
        assert given.keys() - {"type"} == set(inspect.signature(type(plain)).parameters), option


@pytest.mark.parametrize("divisor", ["auto", "auto:onnxruntime", "8"])
def test_a_divisor_may_be_left_to_the_machine(divisor: str) -> None:
    pruning = ["callback.sampler=null", "callback.target={flops: 0.5}", f"callback.pruning={{divisor: '{divisor}'}}"]
    if divisor == "8":
        pruning[-1] = "callback.pruning={divisor: 8}"
    config = composed(f"unit.divisor={divisor}", *pruning)
    expected = resolve_divisor(int(divisor) if divisor == "8" else divisor)
    assert instantiate(config.callback).pruner.divisor == expected
    assert registry.build(mutator_config(config)).unit_config.default_args["divisor"] == expected
