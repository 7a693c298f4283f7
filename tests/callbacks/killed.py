"""Kills a training again and again: ``python -m tests.callbacks.killed FOLDER KILLS SEED``.

Each attempt is a process of its own, forked from this one after its imports, that goes on from the newest checkpoint in
the folder. It dies by SIGKILL: after a random step, while it writes a random checkpoint, or at any moment.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import lightning as L
import torch

from lightning_channels import ChannelPruning, newest_checkpoint
from tests.callbacks.noise import entries, loader, saving, train

EVERY, EPOCHS = 2, 8


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class AfterSteps(L.Callback):
    """Dies after some steps: at once, or when a part of the next checkpoint has been moved into place."""

    def __init__(self, steps: int, writing: bool) -> None:
        self.steps = steps
        self.writing = writing

    def on_train_batch_end(self, *args: Any) -> None:
        self.steps -= 1
        if self.steps == 0 and self.writing:
            shutil.move = _begin_to_move
        elif self.steps == 0:
            die()


def _begin_to_move(source: str, target: str) -> None:
    content = Path(source).read_bytes()
    with Path(target).open("wb") as file:
        file.write(content[: random.randrange(len(content))])
    Path(source).unlink()
    die()


def attempt(folder: Path, number: int, *killing: L.Callback) -> None:
    """One run; number 0 is the one that nobody kills."""
    name = "killed" if number else "straight"
    newest = newest_checkpoint(folder / f"{name}_checkpoints")
    train(
        folder / name,
        loader(),
        *killing,
        *saving(folder / f"{name}_checkpoints", EVERY),
        seed=1 if newest is None else 1 + number,
        checkpoint=newest,
        pruning=ChannelPruning(seed=5),
        max_epochs=EPOCHS,
    )


def steps(folder: Path) -> int:
    return len(entries(folder / "killed"))


def damaged(folder: Path) -> list[str]:
    """Names of checkpoints that aren't whole."""
    names = []
    for path in sorted((folder / "killed_checkpoints").glob("*.ckpt")):
        try:
            whole = torch.load(path, weights_only=True)["global_step"] > 0 and ZipFile(path).testzip() is None
        except (RuntimeError, BadZipFile):
            whole = False
        if not whole:
            names.append(path.name)
    return names


def forked(run: Callable[[], None], wait: Callable[[], None] | None = None) -> int:
    """The exit code of a process that does this; given something to wait for, it is killed then."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    if wait is not None:
        wait()
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(folder: Path, number: int, way: str, rng: random.Random) -> int:
    """The exit code of an attempt that ends in this way."""
    if way != "moment":
        return forked(partial(attempt, folder, number, AfterSteps(rng.randint(1, 5), way == "writing")))
    before, later = steps(folder), rng.uniform(0, 0.1)

    def wait() -> None:
        while steps(folder) == before:
            time.sleep(0.002)
        time.sleep(later)

    return forked(partial(attempt, folder, number), wait)


def main(folder: Path, kills: int, seed: int) -> None:
    """Leave in the folder what each attempt was, its exit code, and what is damaged and unfinished after it."""
    attempts = [("straight", forked(partial(attempt, folder, 0)), [], 0)]
    rng = random.Random(seed)
    for number in range(1, kills + 2):
        way = ("moment", "step", "writing")[number % 3] if number <= kills else "to the end"
        code = killed(folder, number, way, rng) if number <= kills else forked(partial(attempt, folder, number))
        unfinished = list((folder / "killed_checkpoints").glob(".*.tmp"))
        attempts.append((way, code, damaged(folder), len(unfinished)))
    (folder / "attempts.json").write_text(json.dumps(attempts))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
