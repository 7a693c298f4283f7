"""Nothing is left behind by a step: a process holds after thousands of them what it held after the first few."""

import json

import pytest

from tests.callbacks.ranks import run_ranks
from tests.robust.census import RUNS


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    folder = tmp_path_factory.mktemp("census")
    run_ranks("tests.robust.census", folder)
    return json.loads((folder / "census.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_steps_leave_nothing_behind(census, name):
    early, late = census[name]
    assert late["tensors"] <= early["tensors"]
    assert late["bytes"] <= early["bytes"]
    assert late["objects"] <= early["objects"] + 50
