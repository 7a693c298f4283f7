"""``lightning-channels export`` and ``report``: one subnet as a file of each format, and a page."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_channels import ChannelMutator, load_subnet, recalibrate_batch_norm
from tests.cli.mine import Data, Mine

UNIT = "encoder.0_(0, 12)_12"
INPUTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


def expected(width: float, recalibrated: bool = False) -> tuple[nn.Module, Tensor]:
    """The untrained module's subnet, exported by hand, and what it computes."""
    torch.manual_seed(0)
    module, data = Mine(), Data()
    mutator = ChannelMutator({"default_args": {"choice_mode": "ratio"}})
    mutator.prepare_from_supernet(module, torch.randn(2, 6))
    mutator.set_choices({UNIT: width})
    if recalibrated:
        data.setup("fit")
        recalibrate_batch_norm(module, data.set.tensors[0].split(16), sync=False)
    small = mutator.export().eval()
    with torch.no_grad():
        return small, small(INPUTS)


def test_the_state_dict_and_the_module(cli, own: Path, tmp_path: Path) -> None:
    small, outputs = expected(0.5)
    code, out, err = cli("export", own, "--width", "0.5", "-o", "small.safetensors")
    assert (code, out, err) == (0, "", "safetensors of 0.5 written to small.safetensors\n")
    weights = load_file(tmp_path / "small.safetensors")
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in small.state_dict().items()
    }
    assert all(torch.equal(weights[name], tensor) for name, tensor in small.state_dict().items())
    assert cli("export", own, "--width", "0.5", "-o", "small.pt")[0] == 0
    loaded = torch.load(tmp_path / "small.pt", weights_only=False)
    assert type(loaded) is Mine
    assert not loaded.training
    assert torch.equal(loaded(INPUTS), outputs)


def test_programs_take_any_batch(cli, own: Path, tmp_path: Path) -> None:
    """With statistics of their own width, and their example input from the data."""
    _, outputs = expected(0.5, recalibrated=True)
    given = ["export", own, "--width", "0.5", "--recalibrate", 4]
    code, _, err = cli(*given, "-o", "small.pt2")
    assert code == 0, err
    program = torch.export.load(tmp_path / "small.pt2").module()
    torch.testing.assert_close(program(INPUTS), outputs, rtol=1e-4, atol=1e-6)
    code, _, err = cli(*given, "-o", "small.onnx", "--opset", 18)
    assert code == 0, err
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: INPUTS.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), outputs, rtol=1e-4, atol=1e-6)
    code, _, err = cli(*given, "--static-batch", "--no-verify", "-o", "fixed.pt2", "tracer.input_shape=[3,6]")
    assert code == 0, err
    with pytest.raises((RuntimeError, AssertionError)):
        torch.export.load(tmp_path / "fixed.pt2").module()(INPUTS)


def test_from_a_search_to_a_subnet_file_and_a_page(cli, own: Path, tmp_path: Path) -> None:
    given = ["--metric", "val_acc", "--objective", "macs", "--budget", 4, "--algorithm", "random"]
    assert cli("search", own, *given, "--recalibrate", 4, "-o", "search.json")[0] == 0
    found = json.loads((tmp_path / "search.json").read_text())
    code, _, err = cli("export", own, "--search", "search.json", "--recalibrate", 4, "-o", "ship/subnet.yaml")
    assert (code, err) == (0, f"subnet of candidate {found['best']} written to ship/subnet.yaml\n")
    best = found["candidates"][found["best"]]
    torch.manual_seed(0)
    _, outputs = expected(best["choices"][UNIT], recalibrated=True)
    small = load_subnet(Mine, "ship/subnet.yaml").eval()
    torch.testing.assert_close(small(INPUTS), outputs, rtol=1e-4, atol=1e-6)
    assert f"val_acc: {best['metrics']['val_acc']}" in (tmp_path / "ship" / "subnet.yaml").read_text()

    # what was searched is what eval finds, under the same name, and what the subnet file says
    code, out, err = cli("eval", own, "--search", "search.json", "--pick", "front", "--recalibrate", 4, "--json")
    assert code == 0, err
    for at, subnet in zip(found["front"], json.loads(out)["subnets"], strict=True):
        assert subnet["name"] == f"candidate {at}"
        assert subnet["metrics"] == found["candidates"][at]["metrics"]
    _, out, _ = cli("resources", own, "--search", "search.json", "--pick", "1", "--json")
    _, again, _ = cli("resources", own, "--choices", "ship/subnet.yaml", "--json")
    assert json.loads(out)["totals"]["macs"] == found["candidates"][1]["resources"]["macs"]
    assert json.loads(again)["totals"]["macs"] == best["resources"]["macs"]

    code, _, err = cli("report", own, "--search", "search.json", "--title", "Digits & co", "-o", "report.html")
    assert (code, err) == (0, "report of 1 mutable units written to report.html\n")
    page = (tmp_path / "report.html").read_text()
    assert "Digits &amp; co" in page
    assert "val_acc" in page

    (tmp_path / "other.yaml").write_text((own.read_text()).replace("tests.cli.mine.Mine", "tests.cli.mine.Other"))
    code, out, err = cli("export", "other.yaml", "--search", "search.json", "-o", "a.pt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the search result is of the supernet" in err
    assert not (tmp_path / "a.pt").exists()


def test_a_checkpoint_alone_says_all(cli, trained: Path, tmp_path: Path) -> None:
    file = trained / "slimmable.ckpt"
    code, out, err = cli("export", "--checkpoint", file, "--width", "0.5", "-o", tmp_path / "half.onnx")
    assert (code, out, err.splitlines()[0]) == (0, "", f"checkpoint: {file}")
    session = onnxruntime.InferenceSession(tmp_path / "half.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [1, 8, 8]
    assert cli("report", "--checkpoint", file, "-o", tmp_path / "run.html")[0] == 0
    assert "DigitsResNet" in (tmp_path / "run.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export"], "the following arguments are required: -o/--output-path"),
        (["export", "-o", "a.bin"], "the ending '.bin' is of no format; give --format, or one of .yaml"),
        (["export", "-o", "a.bin", "--format", "onnx"], "onnx is written to a .onnx file, got a.bin"),
        (["export", "-o", "a.pt", "--opset", "18"], "--opset is for onnx, and the format is torch; leave it out"),
        (["export", "-o", "a.pt", "--static-batch"], "--static-batch is for pt2 and onnx, and the format is torch"),
        (["export", "-o", "a.pt", "--choices", "no.json"], "cannot read no.json"),
        (["export", "-o", "a.pt", "--width", "1", "--choices", "no.json"], "not allowed with argument --width"),
        (["export", "-o", "a.pt", "--search", "s.json", "--pick", "front"], "are 2; give the index of one"),
        (["export", "-o", "a.pt", "--search", "s.json", "--pick", "9"], "the index of a candidate, 0 to 2, got 9"),
        (["export", "-o", "a.pt", "--search", "s.json", "--pick", "bst"], "got bst; did you mean 'best'?"),
        (["export", "-o", "a.pt", "--pick", "1"], "there is no --search"),
        (["report"], "the following arguments are required: -o/--output-path"),
        (["report", "-o", "a.pdf"], "a.pdf"),
        (["report", "-o", "a.html", "--search", "no.json"], "cannot read no.json"),
    ],
)
def test_one_line_and_exit_code_2(cli, own: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    if "s.json" in arguments:
        given = ["--metric", "val_acc", "--objective", "macs", "--budget", 3, "--algorithm", "random", "--batches", 1]
        assert cli("search", own, *given, "-o", "s.json")[0] == 0
        found = json.loads((tmp_path / "s.json").read_text())
        (tmp_path / "s.json").write_text(json.dumps({**found, "front": [0, 1]}))
    code, out, err = cli(arguments[0], own, *arguments[1:])
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert not list(tmp_path.glob("a.*"))


def test_an_import_path(cli, tmp_path: Path) -> None:
    given = ["slimmable.models.DigitsResNet", "widths=[8,8,8]", "tracer.input_shape=[1,1,8,8]", "--width", "0.5"]
    code, _, err = cli("export", *given, "-o", tmp_path / "half.pt2")
    assert code == 0, err
    assert torch.export.load(tmp_path / "half.pt2").module()(torch.zeros(7, 1, 8, 8)).shape == (7, 10)
    code, out, err = cli("export", *given, "--recalibrate", 2, "-o", tmp_path / "half.pt")
    assert (code, out) == (2, "")
    assert "says of no LightningModule how it validates" in err
