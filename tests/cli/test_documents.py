"""The command-line examples of the document on the config tool, by name and number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v2

from lightning_channels import SlimmableChannelMutator, build, config_dir
from lightning_channels.dynamic_ops.switching import SwitchableMixin

# (width, choice) of each unit as the document lists them, in order
AUTOSLIM = [
    (48, 32),
    (24, 16),
    (144, 144),
    (40, 24),
    (240, 176),
    (240, 192),
    (48, 48),
    (288, 240),
    (288, 144),
    (288, 264),
    (96, 88),
    (576, 288),
    (576, 336),
    (576, 432),
    (576, 576),
    (144, 144),
    (864, 576),
    (864, 648),
    (864, 864),
    (240, 240),
    (1440, 1440),
    (1440, 1440),
    (1440, 1440),
    (480, 480),
    (1920, 1920),
]
EXPERIMENT = "experiment/autoslim_mbv2_1.5x"
SMALL = [
    "stem.0_(0, 16)_16",
    "blocks.0.conv1_(0, 16)_16",
    "blocks.1.conv1_(0, 32)_32",
    "blocks.1.conv2_(0, 32)_32",
    "blocks.2.conv1_(0, 64)_64",
    "blocks.2.conv2_(0, 64)_64",
]
TRACER = {"type": "BackwardTracer", "loss_calculator": {"type": "ImageClassifierPseudoLoss"}}


def test_the_resnet34_template(cli) -> None:
    """22 units, from the model's input on; with init args as the document prints them."""
    printed = cli("units", config_dir() / "model" / "resnet34.yaml", "tracer=image_classifier", "-i")
    code, out, _ = printed
    template = json.loads(out)
    units = template["channel_unit_cfg"]["units"]
    assert code == 0
    assert (len(units), next(iter(units))) == (22, "conv1_(0, 3)_3")
    assert list(template) == ["type", "channel_unit_cfg", "parse_cfg"]
    assert (template["type"], template["channel_unit_cfg"]["type"]) == (
        "ChannelMutator",
        "SequentialMutableChannelUnit",
    )
    assert template["parse_cfg"] == TRACER
    assert list(units["conv1_(0, 3)_3"]) == ["init_args", "choice"]
    assert list(units["conv1_(0, 3)_3"]["init_args"].items())[:2] == [("num_channels", 3), ("choice_mode", "ratio")]
    assert units["conv1_(0, 3)_3"]["choice"] == 1.0
    assert cli("units", "model/resnet34", "tracer=image_classifier", "-i") == printed
    assert cli("units", "torchvision.models.resnet34", "tracer=image_classifier", "-i") == printed


def check_template(template: dict, with_init_args: bool) -> None:
    """What both forms of the document's template show."""
    assert list(template) == ["type", "channel_unit_cfg", "parse_cfg"]
    assert template["type"] == "SlimmableChannelMutator"
    assert template["parse_cfg"] == TRACER
    config = template["channel_unit_cfg"]
    assert list(config) == ["type", "default_args", "units"]
    assert (config["type"], config["default_args"]) == ("SlimmableChannelUnit", {})
    found = list(config["units"].items())
    assert [name for name, _ in found[:2]] == ["features.0.0_(0, 3)_3", "features.0.0_(0, 48)_48"]
    sizes = [(int(name.rpartition("_")[2]), unit["choice"]) for name, unit in found]
    assert sizes == [(3, 3), *AUTOSLIM, (1000, 1000)]
    for (size, choice), (_, unit) in zip(sizes, found, strict=True):
        init_args = {
            "num_channels": size,
            "divisor": 1,
            "min_value": 1,
            "min_ratio": 0.9,
            "candidate_choices": [choice],
            "choice_mode": "number",
        }
        expected = {"init_args": init_args, "choice": choice} if with_init_args else {"choice": choice}
        assert json.dumps(unit) == json.dumps(expected)  # with the order of keys


def test_the_autoslim_template(cli) -> None:
    code, out, err = cli("units", EXPERIMENT)
    assert (code, err) == (0, "")
    check_template(json.loads(out), with_init_args=False)
    start = (
        '{\n    "type":"SlimmableChannelMutator",\n    "channel_unit_cfg":{\n        "type":"SlimmableChannelUnit",\n'
    )
    assert out.startswith(f'{start}        "default_args":{{}},\n        "units":{{\n')


def test_the_autoslim_template_with_init_args(cli, tmp_path: Path) -> None:
    code, out, err = cli("units", "-i", EXPERIMENT)
    assert (code, err) == (0, "")
    check_template(json.loads(out), with_init_args=True)
    path = tmp_path / "units.json"
    code, nothing, err = cli("units", "--with-init-args", config_dir() / f"{EXPERIMENT}.yaml", "-o", path)
    assert (code, nothing, err) == (0, "", f"25 mutable units written to {path}\n")
    assert path.read_text() == out


def test_the_autoslim_choices(cli, tmp_path: Path) -> None:
    code, out, _ = cli("units", EXPERIMENT, "-i", "--choice", "-o", tmp_path / "choices.json")
    assert (code, out) == (0, "")
    text = (tmp_path / "choices.json").read_text()
    choices = json.loads(text)
    assert [(int(name.rpartition("_")[2]), choice) for name, choice in choices.items()] == AUTOSLIM
    assert text.startswith('{\n    "features.0.0_(0, 48)_48":32,\n    "features.1.conv.1_(0, 24)_24":16,\n')

    # the template is a mutator with this one subnet, and the choices are those of the published network
    template = json.loads(cli("units", EXPERIMENT, "-i")[1])
    mutator, model = build(template), mobilenet_v2(width_mult=1.5)
    assert isinstance(mutator, SlimmableChannelMutator)
    mutator.prepare_from_supernet(model, torch.randn(1, 3, 32, 32))
    assert mutator.subnets == [choices] == [mutator.current_choices]
    assert not any(isinstance(module, SwitchableMixin) for module in model.modules())
    small = mutator.export()
    assert (small.features[0][0].out_channels, small.features[18][0].out_channels) == (32, 1920)
    assert small.features[2].conv[2].out_channels == 24
    assert sum(p.numel() for p in small.parameters()) / 1e6 == pytest.approx(6.5, abs=0.05)  # as published
    assert small.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 1000)


def test_a_yaml_with_a_model_and_a_mutator(cli, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "model: {_target_: slimmable.models.DigitsResNet, widths: [16, 32, 64]}\n"
        "unit: {type: SlimmableChannelUnit}\n"
        "mutator:\n"
        "  type: SlimmableChannelMutator\n"
        "  units:\n" + "".join(f"    {name}: {{init_args: {{candidate_choices: [4, 16]}}}}\n" for name in SMALL)
    )
    code, out, err = cli("units", path, "tracer.input_shape=[1,1,8,8]", "--choice")
    assert code == 0, err
    assert list(json.loads(out).values()) == [16] * len(SMALL)


def test_a_yaml_with_values_of_a_mutator(cli, tmp_path: Path) -> None:
    """Only values, without a type: they go over those of the default."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "model: {_target_: slimmable.models.DigitsResNet, widths: [16, 32, 64]}\n"
        "tracer: {input_shape: [1, 1, 8, 8]}\n"
        f"mutator: {{units: {{'{SMALL[0]}': {{choice: 0.25}}}}}}\n"
    )
    code, out, err = cli("units", path, "--choice")
    assert code == 0, err
    assert json.loads(out) == {**dict.fromkeys(SMALL, 1.0), SMALL[0]: 0.25}
    code, out, err = cli("units", path, "--choice", "unit=one_shot")
    assert code == 0, err
    assert json.loads(out)[SMALL[0]] == 0.25


def test_what_is_printed_is_a_mutator_for_a_yaml(cli, tmp_path: Path) -> None:
    """A template, edited, beside its model: it comes out as it went in."""
    template = json.loads(cli("units", "model/digits_resnet", "-i")[1])
    template["channel_unit_cfg"]["units"][SMALL[1]]["choice"] = 0.5
    path = tmp_path / "mine.yaml"
    model = {"_target_": "slimmable.models.DigitsResNet", "widths": [16, 32, 64]}
    path.write_text(json.dumps({"model": model, "mutator": template}))
    code, out, err = cli("units", path, "-i")
    assert code == 0, err
    assert json.loads(out) == template
