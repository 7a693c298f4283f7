"""The Python blocks of the README run, in order, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

README = Path(__file__).parents[1] / "README.md"


class MyLightningModule(L.LightningModule):
    """The module that a reader has already."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3),
            nn.Flatten(),
            nn.Linear(432, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_integration_is_about_ten_lines() -> None:
    lines = [line for line in blocks()[0].splitlines() if line.strip()]
    assert len(lines) <= 12


@pytest.mark.filterwarnings("ignore")
def test_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(torch.randn(32, 1, 8, 8), torch.randint(0, 3, (32,))), batch_size=8)
    names: dict[str, Any] = {
        "MyLightningModule": MyLightningModule,
        "train_loader": loader,
        "val_loader": loader,
    }
    for block in blocks():
        exec(compile(block, str(README), "exec"), names)
    small, model = torch.load(tmp_path / "half.pt", weights_only=False), names["model"]
    assert small[0].weight.shape == (4, 1, 3, 3)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.net.parameters())
    assert isinstance(names["small"], nn.Module)
    assert names["again"].current_choices == names["mutator"].current_choices
    assert shown(str(names["tagger"].report())) in shown(README.read_text(encoding="utf-8"))


def shown(text: str) -> str:
    """Without what differs from run to run: what the proof took, where the file lies, and how lines are broken."""
    text = " ".join(text.split())
    return re.sub(r"\S*(tagger\.py|README\.md):\d+", "tagger.py", re.sub(r" \(\d+ runs, [\d.]+ s\)", "", text))
