"""Bad input ends with exit code 2, nothing on stdout and one line on stderr that says what to do."""

from pathlib import Path

import pytest

BAD = {
    "unknown config": (["trian"], "'trian' is no config; did you mean 'train'?"),
    "unknown option": (["model/torchvison"], "did you mean 'model/torchvision'?"),
    "without its group": (["autoslim_mbv2_1.5x"], "did you mean 'experiment/autoslim_mbv2_1.5x'?"),
    "unknown module": (["nowhere.models.resnet18"], "cannot import nowhere.models.resnet18"),
    "misspelt function": (["torchvision.models.resnet81"], "did you mean 'resnet18'?"),
    "no model": (["torchvision.models.list_models"], "torchvision.models.list_models is a list, not a torch.nn.Module"),
    "not callable": (["torchvision.__version__"], "torchvision.__version__ is a str"),
    "unknown argument": (["torchvision.models.resnet18", "width=2"], "unexpected keyword argument 'width'"),
    "no argument": (["torchvision.models.resnet18", "a.b=2"], "'a.b=2' is no argument of a model; write name=value"),
    "value is no YAML": (["torchvision.models.resnet18", "a=[1"], "the value in 'a=[1' is no YAML"),
    "unknown key": (["model/digits_resnet", "modl.x=1"], "did you mean 'model'?"),
    "misspelt key": (["model/digits_resnet", "tracer.inputshape=[1]"], "did you mean 'tracer.input_shape'?"),
    "two misspelt keys": (["torchvision.models.resnet18", "unit.divisr=8", "unit.x=1"], "did you mean 'unit.divisor'?"),
    "unknown group option": (["model/digits_resnet", "unit=slimable"], "did you mean 'unit/slimmable'?"),
    "misspelt key of a mutator": (["model/digits_resnet", "+mutator.unts={}"], "did you mean 'units'?"),
    "unknown model": (["model/torchvision", "model.name=resnet19"], "resnet19"),
    "broken override": (["model/digits_resnet", "unit.divisor=[1"], "unit.divisor=[1"),
    "unknown unit type": (
        ["model/digits_resnet", "unit.type=OneShotUnit"],
        "did you mean 'OneShotMutableChannelUnit'?",
    ),
    "unknown unit key": (["model/digits_resnet", "+unit.divisr=8"], "did you mean 'divisor'?"),
    "unknown tracer": (["model/digits_resnet", "tracer.type=ForwardTrace"], "did you mean 'ForwardTracer'?"),
    "wrong input": (["model/digits_resnet", "tracer.input_shape=[1,3,8,8]"], "[1, 3, 8, 8]"),
    "unknown unit": (
        ["experiment/autoslim_mbv2_1.5x", "model.width_mult=1.0", "tracer=forward", "tracer.input_shape=[1,3,32,32]"],
        "settings for the unit 'features.0.0_(0, 48)_48', which the model doesn't have; did you mean",
    ),
    "candidate out of range": (
        ["model/digits_resnet", "unit=slimmable", "unit.candidate_choices=[0.5,2]"],
        "the choice 2 of unit",
    ),
    "missing file": (["nowhere.yaml"], "cannot read nowhere.yaml: No such file or directory"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_one_line_and_exit_code_2(cli, arguments: list[str], message: str) -> None:
    code, out, err = cli("units", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("lightning-channels: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "must hold a mapping, got list"),
        ("a: [\n", "is not valid YAML"),
        ("unit: {divisor: 8}\n", "describes no model"),
        ("_target_: torchvision.models.resnet19\n", "torchvision.models.resnet19"),
        ("_target_: torchvision.models.list_models\n", "not a torch.nn.Module"),
        ("defaults: [{unit: one_shot}]\n", "no group 'model'"),
        (
            "model: {_target_: slimmable.models.DigitsResNet, widths: [8, 8, 8]}\n"
            "tracer: {input_shape: [1, 1, 8, 8]}\n"
            "unit: {type: SlimmableChannelUnit, candidate_choices: [4, 8]}\n"
            "mutator:\n"
            "  type: SlimmableChannelMutator\n"
            "  units: {'stem.0_(0, 8)_8': {init_args: {candidate_choices: [2, 4, 8]}}}\n",
            "must have equally many candidate_choices, one for each subnet; 5 units have 2, but not 'stem.0_(0, 8)_8'",
        ),
    ],
)
def test_bad_files(cli, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    code, out, err = cli("units", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("text", ["raise RuntimeError('no luck')\n", "def net(:\n", "import nowhere\n"])
def test_modules_that_cannot_be_imported(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("units", f"{name}.net")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"cannot import {name}.net: " in err


def test_output_that_cannot_be_written(cli, tmp_path: Path) -> None:
    code, out, err = cli("units", "model/digits_resnet", "-o", tmp_path / "nowhere" / "units.json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "No such file or directory" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which command? Known: units, resources, search, eval, export, report"),
        (["unit"], "invalid choice: 'unit'"),
        (["units"], "the following arguments are required: CONFIG"),
        (["units", "train", "--choices-only"], "cannot make sense of --choices-only"),
        (["units", "train", "divisor"], "cannot make sense of divisor; overrides are written key=value"),
    ],
)
def test_bad_command_lines(cli, arguments: list[str], message: str) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("lightning-channels: error: ")
    assert err.count("\n") == 1
