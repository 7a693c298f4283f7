"""examples/zoo: each runs as its page says, in fewer steps; what it leaves is smaller, right, and loads again."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_channels._config import examples_dir
from tests.docs.test_pages import blocks

PAGE = "howto/zoo.md"
FEWER: dict[str, list[str]] = {
    "image_folder": ["--epochs", "1", "--prune-epochs", "1"],
    "segmentation": ["--epochs", "1"],
    "timm_model": ["--epochs", "1"],
    "hugging_face": ["--epochs", "1"],
    "detector": ["--epochs", "1"],
}
"""What is added to the commands of the page, which train until there is something to see."""

pytestmark = pytest.mark.filterwarnings("ignore:.*Detected call of .lr_scheduler.step.*")


class Ran(NamedTuple):
    """What a run left: its net, the prepared one that it was exported from, what it printed, and its folder."""

    small: Any
    prepared: nn.Module
    printed: str
    output: Path

    def counted(self, name: str) -> tuple[int, int]:
        """How much of something is left, and of how much."""
        now, total = re.search(rf"{name}: ([\d,]+) of ([\d,]+)", self.printed).groups()  # type: ignore[union-attr]
        return int(now.replace(",", "")), int(total.replace(",", ""))


def commands() -> dict[str, tuple[list[str], str]]:
    """The page's runs on generated data: example → arguments, and what stands below."""
    found = {}
    for block in blocks(PAGE):
        if block.language == "console" and block.output is not None and "examples/zoo/" in block.code:
            _, script, *arguments = shlex.split(block.code)
            found[Path(script).stem] = (arguments, block.output)
    return found


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports an example by its name, as a program finds what lies beside it."""
    monkeypatch.syspath_prepend(examples_dir() / "zoo")
    return importlib.import_module


@pytest.fixture
def run(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., Ran]:
    """Runs an example as the page does, and compares what it prints, but for the numbers."""

    def once(name: str, way_out: str = "export_subnet") -> Ran:
        module = example(name)
        own, seen = getattr(module, way_out), []

        def watched(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            seen.append(model)
            return own(model, *args, **kwargs)

        monkeypatch.setattr(module, way_out, watched)
        monkeypatch.chdir(tmp_path)
        arguments, expected = commands()[name]
        capsys.readouterr()
        small = module.main([*arguments, *FEWER[name]])
        printed = capsys.readouterr().out
        assert without_numbers(printed) == without_numbers(expected)
        (prepared,) = seen
        return Ran(small, prepared.eval(), printed, tmp_path / "outputs" / name)

    return once


def without_numbers(text: str) -> list[str]:
    return re.sub(r"\d[\d,.]*", "#", text).strip().splitlines()


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def check_costs(ran: Ran, net: nn.Module, inputs: Any, share: float) -> None:
    """What the run printed is what torch counts on what it returned, and within the target."""
    now, total = ran.counted("macs")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(inputs)
    assert counter.get_total_flops() == 2 * now
    assert 0.9 * share * total < now <= share * total
    now, total = ran.counted("params")
    assert parameters(net) == now < total


def same(own: Tensor, other: Tensor) -> None:
    assert own.abs().max() > 0
    torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


def test_the_page_runs_every_example_and_no_other() -> None:
    beside = {"generated", "options"}  # what they have in common
    scripts = {path.stem for path in (examples_dir() / "zoo").glob("*.py")} - beside
    assert set(commands()) == set(FEWER) == scripts


@pytest.mark.parametrize("name", FEWER)
def test_each_explains_itself(name: str, example: Any, capsys: Any) -> None:
    for package in {"timm_model": ["timm"], "hugging_face": ["transformers"]}.get(name, []):
        pytest.importorskip(package)
    with pytest.raises(SystemExit) as stop:
        example(name).main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"python examples/zoo/{name}.py --generated" in printed
    assert "(default: 0.5)" in printed or "(default: 0.6)" in printed


@pytest.mark.parametrize("name", FEWER)
def test_without_data_it_says_what_is_missing(name: str, example: Any, tmp_path: Path, capsys: Any) -> None:
    for package in {"timm_model": ["timm"], "hugging_face": ["transformers"]}.get(name, []):
        pytest.importorskip(package)
    with pytest.raises(SystemExit) as stop:
        example(name).main(["--data", str(tmp_path)])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    voc = name in ("segmentation", "detector")
    assert f"has no folder {'VOCdevkit/VOC2012, --download' if voc else 'train and no val;'}" in printed
    assert "--generated needs no data" in printed


@torch.no_grad()
def test_image_folder(run: Callable[..., Ran]) -> None:
    ran = run("image_folder")
    images = torch.randn(1, 3, 32, 32)
    check_costs(ran, ran.small, images, 0.5)
    same(ran.small(images), ran.prepared(images))
    saved = torch.load(ran.output / "pruned.pt", weights_only=False)
    assert type(saved).__module__ == "torchvision.models.resnet"
    same(saved(images), ran.small(images))


@torch.no_grad()
def test_segmentation(run: Callable[..., Ran]) -> None:
    ran = run("segmentation")
    images = torch.randn(1, 3, 64, 64)
    out = ran.small(images)["out"]
    assert out.shape == (1, 21, 64, 64)
    same(out, ran.prepared(images)["out"])
    same(torch.load(ran.output / "pruned.pt", weights_only=False)(images)["out"], out)
    now, total = ran.counted("params")
    assert parameters(ran.small) < now < total  # the auxiliary classifier counts there, and isn't saved


@torch.no_grad()
def test_timm_model(run: Callable[..., Ran]) -> None:
    pytest.importorskip("timm")
    ran = run("timm_model", "save_subnet")
    images = torch.randn(1, 3, 32, 32)
    check_costs(ran, ran.small, images, 0.5)
    same(ran.small(images), ran.prepared(images))
    assert type(ran.small).__module__ == "timm.models.resnet"


@torch.no_grad()
def test_hugging_face(run: Callable[..., Ran]) -> None:
    transformers = pytest.importorskip("transformers")
    ran = run("hugging_face")
    images = torch.randn(1, 3, 32, 32)
    loaded = transformers.ViTForImageClassification.from_pretrained(ran.output).eval()
    config = loaded.config
    assert (config.num_attention_heads, config.head_dim, config.intermediate_size) == (2, 8, 32)
    assert config.id2label == {0: "aeroplane", 1: "bicycle", 2: "bird"}
    same(loaded(images).logits, ran.prepared(images).logits)
    now, total = ran.counted("params")
    assert parameters(loaded) == now < 0.7 * total


@torch.no_grad()
def test_detector(run: Callable[..., Ran]) -> None:
    ran = run("detector")
    check_costs(ran, ran.small.backbone, torch.randn(1, 3, 64, 64), 0.6)
    images = [torch.rand(3, 64, 50), torch.rand(3, 60, 64)]
    saved = torch.load(ran.output / "pruned.pt", weights_only=False)
    for net in (ran.small, saved, ran.prepared):
        net.roi_heads.score_thresh = 0.0  # so that there is something to compare after few steps
    own, again, wide = ran.small(images), saved(images), ran.prepared(images)
    assert len(own) == 2
    for box in range(2):
        same(own[box]["boxes"], wide[box]["boxes"])
        same(own[box]["scores"], wide[box]["scores"])
        same(own[box]["boxes"], again[box]["boxes"])
