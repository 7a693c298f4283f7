"""Models of runs: a run's folder, a checkpoint in it, and a config with a checkpoint from anywhere."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

STEM = "stem.0_(0, 8)_8"
MODEL = ["model/digits_resnet", "model.widths=[8,8,8]"]
NAMES = [
    STEM,
    *(f"blocks.{n}_(0, 8)_8" for n in ("0.conv1", "1.conv1", "1.conv2", "2.conv1", "2.conv2")),
]


def edited(checkpoint: Path, to: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A checkpoint that differs from another."""
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, to)
    return to


def copied(run: Path, to: Path) -> Path:
    """A run's folder without its checkpoints."""
    shutil.copytree(run / ".hydra", to / ".hydra")
    return to


@pytest.mark.parametrize("how", ["folder", "checkpoint", "checkpoint option", "config", "config and folder", "class"])
def test_the_units_of_a_run(cli, trained: Path, how: str) -> None:
    """At their widest: the widths in the checkpoint are the last that were drawn."""
    file = trained / "slimmable.ckpt"
    given: list[object] = {
        "folder": [trained],
        "checkpoint": [file],
        "checkpoint option": ["--checkpoint", file],
        "config": [*MODEL, "--checkpoint", file],
        "config and folder": ["--checkpoint", trained, *MODEL],
        "class": ["slimmable.models.DigitsResNet", "widths=[8,8,8]", "--checkpoint", file],
    }[how]
    code, out, err = cli("units", *given, "--choice")
    assert (code, err) == (0, f"checkpoint: {file}\n")
    assert json.loads(out) == dict.fromkeys(NAMES, 1.0)


def test_a_checkpoint_needs_no_trace(cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slimmable.models import DigitsResNet

    def refuse(*args: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(DigitsResNet, "forward", refuse)
    assert cli("units", trained, "--report")[0] == 0
    assert cli("resources", trained, "--width", "0.5")[0] == 0


def test_resources_of_a_run_are_those_of_one_image(cli, trained: Path) -> None:
    """As of the same model that is traced with one; the callback traces with two."""
    _, expected, _ = cli("resources", *MODEL, "--json", "--width", "0.5")
    code, out, err = cli("resources", trained, "--json", "--width", "0.5")
    assert code == 0, err
    assert json.loads(out)["totals"] == json.loads(expected)["totals"]
    assert json.loads(out)["channels"][STEM] == [4, 8]


def test_overrides_change_a_runs_config(cli, trained: Path, tmp_path: Path) -> None:
    run = copied(trained, tmp_path / "run")
    code, out, err = cli("units", run, "unit=one_shot", "unit.candidate_choices=[0.5,1.0]", "-i")
    assert code == 0, err
    template = json.loads(out)["channel_unit_cfg"]
    assert template["type"] == "OneShotMutableChannelUnit"
    assert set(template["default_args"]) == {"candidate_choices", "choice_mode", "divisor", "min_value", "min_ratio"}
    assert template["units"][STEM]["init_args"]["candidate_choices"] == [0.5, 1.0]
    code, out, err = cli("units", run, "model.widths=[4,8,8]", "--choice")
    assert (code, next(iter(json.loads(out)))) == (0, "stem.0_(0, 4)_4"), err
    code, out, err = cli("units", run, "model=digits_vit", "--choice")
    assert (code, "blocks.0.mlp.0_(0, 192)_192" in json.loads(out)) == (0, True), err


@pytest.mark.parametrize("how", ["pruned", "fixed"])
def test_one_subnet_that_was_trained_stays(cli, trained: Path, tmp_path: Path, how: str) -> None:
    run = copied(trained, tmp_path / "run")
    stored: dict[str, float] = {}

    def change(checkpoint: dict[str, Any]) -> None:
        state = checkpoint["callbacks"]["ChannelPruning[net]"]
        state["choices"] = dict.fromkeys(state["choices"], 0.25)
        state["choices"][STEM] = 0.5
        stored.update(state["choices"])
        if how == "pruned":
            state["pruning"] = {}

    edited(trained / "slimmable.ckpt", run / "last.ckpt", change)
    overrides = ["sampler=fixed", "sampler.choices=widths.json"] if how == "fixed" else []
    code, out, err = cli("units", run, *overrides, "--choice")
    assert (code, json.loads(out)) == (0, stored), err


def test_weights_alone_with_the_structure_beside_them(cli, trained: Path, tmp_path: Path) -> None:
    run = copied(trained, tmp_path / "run")
    (run / "checkpoints").mkdir()
    file = edited(trained / "slimmable.ckpt", run / "checkpoints" / "last.ckpt", strip)
    code, out, err = cli("units", run, "--choice", "unit.divisor=2")  # no structure: the units are those of the config
    assert (code, err) == (0, f"checkpoint: {file}\n")
    shutil.copy(trained / "slimmable.structure.yaml", run / "checkpoints" / "last.structure.yaml")
    code, out, err = cli("units", run, "--choice")
    assert (code, json.loads(out)) == (0, dict.fromkeys(NAMES, 1.0)), err
    code, out, err = cli("units", run, "--choice", "unit.divisor=2")
    assert (code, out) == (2, "")
    assert f"the units are those of {file}, which unit.divisor=2 would change" in err


def strip(checkpoint: dict[str, Any]) -> None:
    """Leave what save_weights_only=True leaves."""
    for key in ("callbacks", "optimizer_states", "lr_schedulers", "loops"):
        checkpoint.pop(key, None)


def test_a_users_own_module_is_traced_with_its_data(cli, own: Path) -> None:
    code, out, err = cli("units", own, "--choice")
    assert (code, json.loads(out)) == (0, {"encoder.0_(0, 12)_12": 1.0}), err
    code, out, err = cli("units", own, "--choice", "+module.hidden=8", "callback.module=encoder", "unit=one_shot")
    assert (code, json.loads(out)) == (0, {"0_(0, 8)_8": 1.0}), err
    code, out, err = cli("resources", own, "--json")
    assert (code, json.loads(out)["totals"]["macs"]) == (0, 12 * 6 + 12 * 3), err


@pytest.mark.parametrize("part", ["callback.module=null", "callback.module=encoder"])
def test_a_net_that_is_built_in_setup(cli, own: Path, part: str) -> None:
    code, out, err = cli("units", own, "--choice", "module._target_=tests.cli.mine.BuiltInSetup", part)
    assert (code, list(json.loads(out).values())) == (0, [1.0]), err
    code, out, err = cli("eval", own, "--json", "module._target_=tests.cli.mine.BuiltInSetup", part)
    assert (code, len(json.loads(out)["subnets"])) == (0, 1), err
    code, out, err = cli("units", own, "module._target_=tests.cli.mine.BuiltWithTrainer", part)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "BuiltWithTrainer builds its net in setup(), which fails where there is no trainer (RuntimeError: " in err
    assert "Build the net in __init__ or configure_model, or give a config with model: {_target_: ...}" in err


def unreadable(folder: Path) -> Path:
    file = folder / "bad.ckpt"
    file.write_bytes(pickle.dumps({"state_dict": Path}))
    return file


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "bad.ckpt")
    return folder / "bad.ckpt"


BAD: dict[str, tuple[Callable[[Path, Path], list[object]], str]] = {
    "no run around it": (lambda run, tmp: [shutil.copy(run / "slimmable.ckpt", tmp)], "lies in no run's folder"),
    "two checkpoints": (lambda run, tmp: ["a.ckpt", "--checkpoint", "b.ckpt"], "give one of the two"),
    "no such checkpoint": (lambda run, tmp: [*MODEL, "--checkpoint", tmp / "no.ckpt"], "there is no checkpoint"),
    "no checkpoint in it": (lambda run, tmp: [*MODEL, "--checkpoint", tmp], "there is no checkpoint in"),
    "no run": (lambda run, tmp: [run / "metrics"], "is no run's folder: it has no .hydra/config.yaml"),
    "several runs": (lambda run, tmp: [run.parent], "It holds runs: run"),
    "not data": (lambda run, tmp: [*MODEL, "--checkpoint", unreadable(tmp)], "can't be read as plain data"),
    "no weights": (lambda run, tmp: [*MODEL, "--checkpoint", saved(tmp, {"a": 1})], "it has no state_dict of tensors"),
    "other units": (
        lambda run, tmp: ["model/digits_resnet", "--checkpoint", run],
        "the structure doesn't fit the model",
    ),
    "another model": (lambda run, tmp: ["model/digits_vit", "--checkpoint", run], "has no weights of DigitsViT"),
    "a misspelt key": (lambda run, tmp: [run, "model.width=[8]"], "did you mean 'model.widths'?"),
    "other units asked for": (lambda run, tmp: [run, "unit=one_shot"], "leave it out, or leave out the checkpoint"),
}


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD)
def test_one_line_and_exit_code_2(
    cli, trained: Path, tmp_path: Path, given: Callable[[Path, Path], list[object]], message: str
) -> None:
    code, out, err = cli("units", *given(trained, tmp_path))
    err = err.removeprefix(f"checkpoint: {trained / 'slimmable.ckpt'}\n").removeprefix(
        f"checkpoint: {tmp_path}/bad.ckpt\n"
    )
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err


def test_several_checkpoints_of_weights_alone(cli, trained: Path, tmp_path: Path) -> None:
    run = copied(trained, tmp_path / "run")
    for name in ("a.ckpt", "b.ckpt"):
        edited(trained / "slimmable.ckpt", run / name, strip)
    code, out, err = cli("units", run)
    assert (code, out) == (2, "")
    assert "choose with --checkpoint: a.ckpt, b.ckpt" in err


def test_several_prepared_modules(cli, trained: Path, tmp_path: Path) -> None:
    def change(checkpoint: dict[str, Any]) -> None:
        states = checkpoint["callbacks"]
        states["ChannelPruning[other]"] = states["ChannelPruning[net]"]

    run = copied(trained, tmp_path / "run")
    edited(trained / "slimmable.ckpt", run / "last.ckpt", change)
    assert cli("units", run, "--choice")[0] == 0  # the config's callback says which
    code, out, err = cli("units", run, "callback.module=neither")
    assert (code, out) == (2, "")
    assert "choose one with callback.module=: net, other" in err
