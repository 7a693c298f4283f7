"""Take the picture of a report anew: ``python docs/screenshot.py [FILE]``. Needs Chromium and a few minutes.

It is no test's business what it looks like: fonts differ from machine to machine.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_channels import ChannelMutator, SearchResult, SearchSpace, recalibrated, save_report, search_subnets

WIDTH, HEIGHT = 1080, 1440


class Block(nn.Module):
    """Two convolutions around which their input is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the convolutions make of the input to it."""
        hidden: Tensor = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(x + hidden)


class DigitsNet(nn.Module):
    """A residual network for 8 x 8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1)
        self.early = nn.Sequential(Block(32), Block(32))
        self.down = nn.Conv2d(32, 64, 3, 2, padding=1)
        self.late = nn.Sequential(Block(64), Block(64), Block(64))
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images."""
        x: Tensor = self.late(self.down(self.early(torch.relu(self.stem(images)))))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


def searched(mutator: ChannelMutator, model: nn.Module) -> SearchResult:
    """Train all widths on the first digits, and look for the best on the others."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    batches = list(zip(images[:1200].split(60), labels[:1200].split(60), strict=True))
    rng = random.Random(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(12):
        for inputs, targets in batches:
            optimizer.zero_grad()
            for kind in ("max", "random"):
                mutator.set_choices(mutator.sample_choices(kind, rng))
                nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    model.eval()

    def evaluate(choices: Mapping[str, Any]) -> dict[str, float]:
        mutator.set_choices(choices)
        with torch.no_grad(), recalibrated(model, [inputs for inputs, _ in batches[:5]]):
            return {"val_acc": (model(images[1200:]).argmax(1) == labels[1200:]).double().mean().item()}

    space = SearchSpace(mutator, limits={"macs": 0.6}, divisor=8)
    return search_subnets(space, evaluate, objectives=("macs",), budget=120)


def main(picture: Path) -> None:
    """Write the picture."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("this needs Chromium: apt-get install chromium")
    torch.manual_seed(0)
    model, mutator = DigitsNet(), ChannelMutator({"type": "sequential", "default_args": {"divisor": 8}})
    mutator.prepare_from_supernet(model, torch.randn(2, 1, 8, 8))
    found = searched(mutator, model)
    mutator.set_choices(found.best.choices)
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = save_report(mutator, Path(folder) / "report.html", search=found, title="Digits: the best of 120")
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        shot = [f"--screenshot={picture.resolve()}", f"--window-size={WIDTH},{HEIGHT}", page.as_uri()]
        subprocess.run([chromium, *flags, *shot], check=True, capture_output=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "screenshots" / "report.png")
