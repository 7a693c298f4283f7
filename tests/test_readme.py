"""The Python blocks of the README run, in order, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from reader import readers_names
from torch import nn

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_integration_is_about_ten_lines() -> None:
    lines = [line for line in blocks()[0].splitlines() if line.strip()]
    assert len(lines) <= 12


@pytest.mark.filterwarnings("ignore")
def test_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = readers_names(32)
    for block in blocks():
        exec(compile(block, str(README), "exec"), names)
    small, model = torch.load(tmp_path / "half.pt", weights_only=False), names["model"]
    assert small[0].weight.shape == (4, 1, 3, 3)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.net.parameters())
    assert isinstance(names["small"], nn.Module)
    assert names["again"].current_choices == names["mutator"].current_choices
    (unit,) = map(yaml.safe_load, blocks("yaml"))
    again = names["ChannelMutator"]({"type": unit.pop("type"), "default_args": unit})
    again.prepare_from_supernet(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
    assert type(again.units[0]) is names["PowerOfTwoUnit"]
    assert shown(str(names["tagger"].report())) in shown(README.read_text(encoding="utf-8"))


def shown(text: str) -> str:
    """Without what differs from run to run: what the proof took, where the file lies, and how lines are broken."""
    text = " ".join(text.split())
    return re.sub(r"\S*(tagger\.py|README\.md):\d+", "tagger.py", re.sub(r" \(\d+ runs, [\d.]+ s\)", "", text))
