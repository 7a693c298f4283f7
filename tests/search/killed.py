"""A search that kills itself: python -m tests.search.killed FOLDER ALGORITHM KILL_AT

Evaluates choices, adds a line to FOLDER/log for each, and writes the result to FOLDER/result.json. At evaluation
KILL_AT of this process it dies as after kill -9, before it is done; never, where that is 0.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_channels.search import search
from tests.search.nets import concave, space_of

OBJECTIVES = ("params",)
BUDGET = 60


def run(folder: Path, algorithm: str, kill_at: int = 0) -> None:
    calls = 0

    def evaluate(choices: Mapping[str, Any]) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with (folder / "log").open("a") as log:
            log.write(json.dumps(choices) + "\n")
        return {**concave()(choices), "other": 1 / 3}

    space = space_of({"flops": 0.5})
    objectives = OBJECTIVES if algorithm == "evolution" else None
    found = search(
        space, evaluate, algorithm, objectives=objectives, budget=BUDGET, seed=5, journal=folder / "search.jsonl"
    )
    found.save(folder / "result.json")


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
