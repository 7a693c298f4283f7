"""Two processes that work on one Optuna study; called by the tests as ``python -m tests.search.studied FOLDER``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_channels import ChannelMutator
from lightning_channels.search import SearchSpace, search

BUDGET = 6


def space_of(limits: Any = None, width: int = 24) -> SearchSpace:
    torch.manual_seed(0)
    layers = [nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)]
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(nn.Sequential(*layers), torch.randn(1, 4))
    return SearchSpace(mutator, limits={"macs": 0.4} if limits is None else limits)


def score(choices: Any) -> dict[str, float]:
    """Best at 9 and 17."""
    first, second = choices.values()
    return {"score": -abs(first - 9.0) - abs(second - 17.0)}


def arguments(folder: Path) -> dict[str, Any]:
    algorithm = {"type": "optuna", "storage": f"sqlite:///{folder}/search.db", "study": "net", "batch": 1}
    return {"algorithm": algorithm, "metric": "score", "budget": BUDGET}


def main(folder: Path, number: int) -> None:
    space, seen = space_of(), []

    def evaluate(choices: Any) -> Any:
        seen.append(dict(choices))
        time.sleep(0.3)
        return score(choices)

    (folder / f"ready{number}").touch()
    while not all((folder / f"ready{other}").exists() for other in (0, 1)):
        time.sleep(0.01)
    result = search(space, evaluate, **arguments(folder))
    (folder / f"study{number}.json").write_text(json.dumps({"seen": seen, "result": result.to_dict()}))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if len(sys.argv) == 2:
        other = subprocess.Popen([sys.executable, "-m", "tests.search.studied", str(folder), "1"])
        main(folder, 0)
        assert other.wait() == 0
    else:
        main(folder, 1)
