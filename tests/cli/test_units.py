"""``lightning-channels units``: what it prints for each kind of source."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torchvision.models import resnet18

from lightning_channels import registry
from lightning_channels._config import config_dir

# mobilenet_v2 at width 1.5, in order, as published with the first slimmable networks
MOBILENET_SIZES = [
    *(48, 24, 144, 40, 240, 240, 48, 288, 288, 288, 96, 576, 576, 576, 576, 144),
    *(864, 864, 864, 240, 1440, 1440, 1440, 480, 1920),
]


def test_the_template_of_an_import_path(cli) -> None:
    code, out, err = cli("units", "torchvision.models.resnet18", "tracer.input_shape=[1,3,64,64]")
    template = json.loads(out)
    assert (code, err) == (0, "")
    assert list(template) == ["type", "channel_unit_cfg", "parse_cfg"]
    assert list(template["channel_unit_cfg"]) == ["type", "default_args", "units"]
    assert template["type"] == "ChannelMutator"
    assert template["channel_unit_cfg"]["type"] == "SequentialMutableChannelUnit"
    assert template["parse_cfg"] == {
        "type": "ForwardTracer",
        "input_shape": [1, 3, 64, 64],
        "attention": "heads",
    }
    units = template["channel_unit_cfg"]["units"]
    assert len(units) == 14
    assert units["conv1_(0, 3)_3"] == {"choice": 1.0}
    assert out.startswith('{\n    "type":"ChannelMutator",\n    "channel_unit_cfg":{\n        "type":')


def test_choices_of_mutable_units_alone(cli) -> None:
    code, out, _ = cli("units", "torchvision.models.mobilenet_v2", "width_mult=1.5", "--choice", "-i", "-c")
    choices = json.loads(out)
    assert code == 0
    assert [int(name.rpartition("_")[2]) for name in choices] == MOBILENET_SIZES
    assert set(choices.values()) == {1.0}


def test_init_args_and_channels(cli) -> None:
    _, out, _ = cli("units", "model/digits_resnet", "-i", "-c", "unit.divisor=4")
    units = json.loads(out)["channel_unit_cfg"]["units"]
    unit = units["stem.0_(0, 16)_16"]
    assert list(unit) == ["init_args", "channels", "choice"]
    assert unit["init_args"] == {
        "num_channels": 16,
        "choice_mode": "ratio",
        "divisor": 4,
        "min_value": 1,
        "min_ratio": 0.9,
    }
    assert unit["channels"]["output_related"][0] == {
        "name": "stem.0",
        "start": 0,
        "end": 16,
        "expand_ratio": 1,
        "is_output_channel": True,
    }
    assert list(unit["channels"]) == ["input_related", "output_related"]


def test_a_primary_config_that_lacks_groups_brings_its_own_model(cli) -> None:
    expected = cli("units", "model/digits_vit", "-i")
    assert cli("units", "prune_vit", "-i") == expected
    assert "blocks.0.attention.qkv_(0, 48)_4" in expected[1]


def test_the_report_as_a_table(cli) -> None:
    code, out, err = cli("units", "model/digits_resnet", "--report", "unit=one_shot")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith("6 of 7 units are mutable; ")
    assert lines[1].startswith("proven in eval and train mode against ")
    assert lines[3].split() == ["unit", "channels", "mutable", "exact", "params", "FLOPs", "notes"]
    assert lines[4].startswith("stem.0_(0, 16)_16 ")
    assert lines[-1] == "[1] reaches the model's output"


def test_the_report_as_json(cli, tmp_path: Path) -> None:
    code, out, err = cli("units", "model/digits_resnet", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert [unit["mutable"] for unit in report["units"]] == [True] * 6 + [False]
    assert report["units"][-1]["reason"] == "reaches the model's output"
    assert report["proof"]["mode"] == "default"
    assert cli("units", "model/digits_resnet", "--json", "-o", tmp_path / "report.json")[1] == ""
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["units"] == report["units"]


def test_one_kind_of_output_at_a_time(cli) -> None:
    code, out, err = cli("units", "model/digits_resnet", "--json", "--choice")
    assert (code, out) == (2, "")
    assert "argument --choice: not allowed with argument --json" in err


def test_options_may_stand_anywhere(cli) -> None:
    expected = cli("units", "model/digits_resnet", "unit=one_shot", "unit.divisor=2", "-i")
    assert cli("units", "-i", "model/digits_resnet", "unit=one_shot", "unit.divisor=2") == expected
    assert cli("units", "model/digits_resnet", "unit=one_shot", "-i", "unit.divisor=2") == expected
    assert expected[0] == 0
    assert '"candidate_choices":[' in expected[1]


def test_the_template_builds_an_equal_mutator(cli) -> None:
    _, out, _ = cli("units", "torchvision.models.resnet18", "tracer.input_shape=[1,3,64,64]", "-i")
    template = json.loads(out)
    name = "layer1.0.conv1_(0, 64)_64"
    template["channel_unit_cfg"]["units"][name]["choice"] = 0.5
    mutator = registry.build(template)
    mutator.prepare_from_supernet(resnet18())
    assert mutator.current_choices[name] == 0.5
    assert mutator.config_template(with_unit_init_args=True) == template


def test_output_path_gets_what_would_be_printed(cli, tmp_path: Path) -> None:
    _, printed, _ = cli("units", "experiment/digits_slimmable", "--choice")
    code, out, err = cli("units", "experiment/digits_slimmable", "--choice", "-o", tmp_path / "choices.json")
    assert (code, out) == (0, "")
    assert (tmp_path / "choices.json").read_text() == printed
    assert f"6 mutable units written to {tmp_path / 'choices.json'}" in err


MODEL = "_target_: torchvision.models.resnet18\nnum_classes: 3\n"


@pytest.mark.parametrize(
    ("text", "head", "kind"),
    [
        (MODEL, 3, "SequentialMutableChannelUnit"),
        ("model: {_target_: torchvision.models.resnet18, num_classes: 4}\n", 4, "SequentialMutableChannelUnit"),
        (
            "model: {_target_: torchvision.models.resnet18, num_classes: 5}\n"
            "unit: {type: OneShotMutableChannelUnit, candidate_choices: [0.5, 1.0], choice_mode: ratio}\n",
            5,
            "OneShotMutableChannelUnit",
        ),
        (
            "defaults: [{model: torchvision}, {unit: one_shot}, _self_]\nmodel: {num_classes: 6}\n",
            6,
            "OneShotMutableChannelUnit",
        ),
    ],
    ids=["a model", "values", "values with a unit", "a primary config"],
)
def test_yaml_files(cli, tmp_path: Path, text: str, head: int, kind: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    code, out, err = cli("units", path, "++tracer.input_shape=[1,3,64,64]")
    assert code == 0, err
    template = json.loads(out)
    assert template["channel_unit_cfg"]["type"] == kind
    assert template["parse_cfg"]["input_shape"] == [1, 3, 64, 64]
    assert f"fc_(0, {head})_{head}" in template["channel_unit_cfg"]["units"]


def test_a_yaml_file_is_changed_by_overrides(cli, tmp_path: Path) -> None:
    path = tmp_path / "resnet.yaml"
    path.write_text(MODEL)
    _, out, _ = cli("units", path, "model.num_classes=9", "unit=one_shot", "tracer.input_shape=[1,3,64,64]")
    template = json.loads(out)
    assert "fc_(0, 9)_9" in template["channel_unit_cfg"]["units"]
    assert template["channel_unit_cfg"]["type"] == "OneShotMutableChannelUnit"


def test_a_file_of_our_own_groups_is_its_name(cli) -> None:
    by_path = cli("units", config_dir() / "model" / "digits_resnet.yaml", "--choice")
    assert by_path == cli("units", "model/digits_resnet", "--choice")
    assert by_path[0] == 0


def test_prints_of_the_model_stay_out_of_the_json(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chatty.py").write_text(
        "from torchvision.models import resnet18\ndef net():\n    print('building')\n    return resnet18()\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("units", "chatty.net", "--choice", "tracer.input_shape=[1,3,64,64]")
    assert (code, err) == (0, "building\n")
    assert len(json.loads(out)) == 12


def test_as_a_module_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightning_channels", "units", "model/digits_resnet", "--choice"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert next(iter(json.loads(done.stdout))) == "stem.0_(0, 16)_16"
