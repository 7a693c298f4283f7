"""``lightning-channels eval``: the metrics that the user's validation logs, at any widths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_channels import ChannelMutator, recalibrate_batch_norm
from tests.cli.mine import Data, Mine

UNIT = "encoder.0_(0, 12)_12"


def by_hand(width: int, recalibrated: bool = False) -> dict[str, float]:
    """What the validation of an untrained module logs, without Lightning."""
    torch.manual_seed(0)
    module, data = Mine(), Data()
    data.setup("validate")
    mutator = ChannelMutator({"default_args": {"choice_mode": "ratio"}})
    mutator.prepare_from_supernet(module, torch.randn(2, 6))
    mutator.set_choices({UNIT: width / 12})
    if recalibrated:
        everything = data.set.tensors[0]
        recalibrate_batch_norm(module, everything.split(16), sync=False)
    module.eval()
    inputs, labels = data.set.tensors
    with torch.no_grad():
        logits = module(inputs)
    loss = float(nn.functional.cross_entropy(logits, labels))
    return {"val_loss": loss, "val_acc": float((logits.argmax(1) == labels).float().mean())}


def test_metrics_as_json(cli, own: Path, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps({UNIT: 0.25}))
    code, out, err = cli("eval", own, "--json", "--width", "max", "--width", "0.5", "--choices", "w.json")
    assert code == 0, err
    found = {subnet["name"]: subnet for subnet in json.loads(out)["subnets"]}
    assert list(found) == ["w.json", "max", "0.5"]
    for name, width in {"w.json": 3, "max": 12, "0.5": 6}.items():
        assert found[name]["metrics"] == pytest.approx(by_hand(width), rel=1e-5), name
        assert found[name]["choices"] == {UNIT: width / 12}
        assert found[name]["resources"]["macs"] == 9 * width


def test_recalibration_and_batches(cli, own: Path, tmp_path: Path) -> None:
    code, out, err = cli("eval", own, "--json", "--width", "0.5", "--recalibrate", 4, "-o", tmp_path / "out.json")
    assert (code, out, err) == (0, "", f"metrics of 1 subnet written to {tmp_path / 'out.json'}\n")
    (subnet,) = json.loads((tmp_path / "out.json").read_text())["subnets"]
    assert subnet["metrics"] == pytest.approx(by_hand(6, recalibrated=True), rel=1e-4)
    _, out, _ = cli("eval", own, "--json", "--width", "0.5", "--batches", 1)
    assert json.loads(out)["subnets"][0]["metrics"] != pytest.approx(by_hand(6), rel=1e-3)


def test_a_table_of_a_run(cli, trained: Path) -> None:
    code, out, err = cli("eval", trained, "--width", "max", "--width", "min", "--batches", 1, "trainer.accelerator=cpu")
    head, widest, narrowest = out.splitlines()
    assert code == 0, err
    assert head.split() == ["subnet", "MACs", "parameters", "val/loss", "val/accuracy"]
    assert widest.split()[:5] == ["max", "102.74", "K", "3.89", "K"]
    assert narrowest.split()[0] == "min"


def test_the_checkpoints_widths_by_default(cli, trained: Path) -> None:
    code, out, err = cli("eval", trained, "--batches", 1, "--progress", "trainer.accelerator=cpu")
    assert (code, out.splitlines()[1].split()[:3]) == (0, ["current", "102.74", "K"])
    assert "eval: 100%" in err


def test_what_a_module_prints_stays_out_of_the_output(cli, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mine, "on_validation_start", lambda self: print("validating"), raising=False)
    code, out, err = cli("eval", own, "--json")
    assert (code, err) == (0, "validating\n")
    assert len(json.loads(out)["subnets"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["model/digits_resnet", "--width", "2"],
            "--width must be max, min or a part of the channels, above 0 and up",
        ),
        (["model/digits_resnet", "--width", "mxa"], "got mxa; did you mean 'max'?"),
        (["model/digits_resnet", "--batches", "few"], "argument --batches: a whole number is needed, got 'few'"),
        (["model/digits_resnet", "--batches", "0"], "batches must be a number of batches, at least 1, got 0"),
        (["model/digits_resnet", "--pick", "3"], "there is no --search"),
        (["torchvision.models.resnet18"], "torchvision.models.resnet18 says of no LightningModule how it validates"),
        (["train", "data._target_=builtins.dict"], "the config's data is a dict, not a LightningDataModule"),
        (["train", "~data"], "the config has no data to validate on; add datamodule: {_target_: ...}"),
        (["train", "~module"], "the config says of no LightningModule how it validates"),
        (["train", "module._target_=torch.nn.Identity"], "the config's module is a Identity, not a LightningModule"),
        (["train", "callback.module=nat"], "Classifier has no submodule 'nat'; did you mean 'net'?"),
        (["train", "trainer.precision=7"], "the config's trainer: Precision 7 is invalid. Allowed"),
    ],
)
def test_one_line_and_exit_code_2(cli, arguments: list[str], message: str) -> None:
    code, out, err = cli("eval", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err


def test_an_error_of_the_users_own_code_has_its_traceback(cli, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Mine, batch: object, batch_idx: int) -> None:
        raise ZeroDivisionError("in the user's code")

    monkeypatch.setattr(Mine, "validation_step", fail)
    code, out, err = cli("eval", own)
    assert (code, out) == (1, "")
    assert "in fail" in err
    assert err.endswith("lightning-channels: error: ZeroDivisionError: in the user's code\n")
