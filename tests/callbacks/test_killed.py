"""A training that is killed again and again computes what the one computes that nobody kills."""

import json
import signal

import pytest

from tests.callbacks import killed
from tests.callbacks.noise import BATCHES, entries
from tests.callbacks.ranks import run_ranks


@pytest.mark.parametrize(
    ("kills", "seed"), [(3, 0), pytest.param(20, 1, marks=pytest.mark.slow)], ids=["3 kills", "20 kills"]
)
def test_steps_after_kills_are_those_of_an_uninterrupted_run(tmp_path, kills, seed):
    run_ranks("tests.callbacks.killed", tmp_path, str(kills), str(seed))
    attempts = json.loads((tmp_path / "attempts.json").read_text())
    assert [code for _, code, _, _ in attempts] == [0, *[-signal.SIGKILL] * kills, 0]
    assert {way for way, *_ in attempts[1:-1]} == {"step", "writing", "moment"}
    assert not any(damaged for _, _, damaged, _ in attempts)
    unfinished = [0] + [count for *_, count in attempts]
    assert all(
        now > before
        for (way, *_), before, now in zip(attempts, unfinished, unfinished[1:], strict=False)
        if way == "writing"
    )

    straight, diary = entries(tmp_path / "straight"), entries(tmp_path / "killed")
    expected = {tuple(entry["step"]): entry for entry in straight}
    assert len(expected) == len(straight) == killed.EPOCHS * BATCHES
    for entry in diary:
        assert entry == expected[tuple(entry["step"])]
    assert {tuple(entry["step"]) for entry in diary} == set(expected)
    assert len(diary) > len(straight)
