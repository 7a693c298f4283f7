"""A result as a file: it comes back as it was, and what is no result is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_channels import Candidate, ChoiceError, ConfigError, SearchResult, StructureError, supernet_hash
from lightning_channels.search import search
from tests.files.hostile import TEXTS
from tests.search.nets import METRIC, concave, prepared, space_of


@pytest.fixture(scope="module")
def result() -> SearchResult:
    return search(space_of({"flops": 0.5}), concave(), objectives=("params",), budget=20, seed=3)


def test_a_file_is_the_result(result: SearchResult, tmp_path: Path) -> None:
    path = result.save(tmp_path / "results" / "search.json")
    assert SearchResult.load(path) == result
    assert SearchResult.load(str(path), prepared()) == result
    assert [line.count('"choices"') for line in path.read_text().splitlines()].count(1) == 20
    with pytest.raises(ConfigError, match=r"a search result is written as JSON; .* must end in \.json"):
        result.save(tmp_path / "search.yaml")


def test_the_file_is_what_is_promised(result: SearchResult) -> None:
    data = result.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["version"] == 1
    assert (data["metric"], data["mode"], data["objectives"]) == (METRIC, "max", ["params"])
    assert (data["algorithm"], data["seed"], data["limits"]) == ("evolution", 3, {"flops": 608.0})
    assert data["arguments"] == {"population": None, "parents": 0.25, "crossover": 0.5, "mutation": 0.1}
    assert data["supernet"] == supernet_hash(prepared())
    assert data["candidates"][data["best"]] == result.best.to_dict()
    assert [data["candidates"][at] for at in data["front"]] == [own.to_dict() for own in result.front]
    assert set(data["candidates"][0]) == {"choices", "metrics", "resources", "generation"}


NUMBERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
FLOATS = st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=3)


@settings(max_examples=50, deadline=None)
@given(st.builds(Candidate, st.dictionaries(st.text(), NUMBERS, max_size=3), FLOATS, FLOATS, st.integers(0, 10**6)))
def test_candidates_come_back_as_they_were(candidate: Candidate) -> None:
    assert Candidate.from_dict(json.loads(json.dumps(candidate.to_dict()))) == candidate


def test_another_supernet_is_refused(result: SearchResult, tmp_path: Path) -> None:
    path = result.save(tmp_path / "search.json")
    with pytest.raises(StructureError, match=r"the search result is of the supernet .* and this is"):
        SearchResult.load(path, prepared((16, 16, 8)))
    data = result.to_dict()
    data["candidates"][4]["choices"]["0_(0, 16)_16"] = 17
    with pytest.raises(ChoiceError, match="the choice 17 of unit '0_"):
        SearchResult.from_dict(data).check(prepared())


GONE = object()
FIRST = ("candidates", 0)
HOSTILE: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    # name: (where, what is put there, part of the message)
    "a list": ((), [1], "must be a dict, got [1]"),
    "a key more": (("_target_",), "os.system", "takes no key '_target_'"),
    "no candidates": (("candidates",), [], "candidates must be a list of at least one"),
    "candidates that are text": (("candidates",), "all", "candidates must be a list of at least one"),
    "no metric": (("metric",), GONE, "has no 'metric'; take it as it was written"),
    "another version": (("version",), 2, "has version 2; this release reads version 1"),
    "another mode": (("mode",), "best", "mode must be 'max' or 'min', got 'best'"),
    "a mode that is a list": (("mode",), ["max"], "mode must be 'max' or 'min'"),
    "objectives that are text": (("objectives",), "params", "objectives must be a list of names"),
    "an objective that nobody counted": (("objectives",), ["watts"], "candidate 0 has no resource 'watts'"),
    "a limit on what nobody counted": (("limits",), {"watts": 1.0}, "candidate 0 has no resource 'watts'"),
    "a limit below 0": (("limits",), {"flops": -1.0}, "limits must be a dict, resource → a number above 0"),
    "arguments that are text": (("arguments",), "rm -rf", "arguments must be a dict"),
    "a seed that is text": (("seed",), "0", "seed must be a whole number, got '0'"),
    "a hash that is none": (("supernet",), None, "supernet must be a hash"),
    "a best that isn't there": (("best",), 20, "from 0 to 19, got 20"),
    "a best below 0": (("best",), -1, "from 0 to 19, got -1"),
    "a best that is true": (("best",), True, "from 0 to 19, got True"),
    "a front that isn't there": (("front",), [0, 99], "from 0 to 19, got 99"),
    "a front that is text": (("front",), "all", "from 0 to 19, got None"),
    "a candidate that is text": (FIRST, "os.system", "candidate 0 must be a dict"),
    "a candidate with a key more": ((*FIRST, "run"), 1, "candidate 0 takes no key 'run'"),
    "a candidate without choices": ((*FIRST, "choices"), GONE, "candidate 0 has no 'choices'"),
    "a choice that is text": ((*FIRST, "choices", "0_(0, 16)_16"), "1", "choices must be finite numbers, got '1'"),
    "a choice that is a list": ((*FIRST, "choices", "0_(0, 16)_16"), [0, 1], "choices must be finite numbers"),
    "a metric that is NaN": ((*FIRST, "metrics", METRIC), float("nan"), "numbers must be finite"),
    "a metric that is text": ((*FIRST, "metrics", METRIC), "1", "metrics must be finite numbers, got '1'"),
    "a candidate without the metric": ((*FIRST, "metrics"), {}, "candidate 0 has no metric 'val_acc'"),
    "a generation below 0": ((*FIRST, "generation"), -1, "generation must be a whole number from 0 on, got -1"),
    "a generation that is true": ((*FIRST, "generation"), True, "generation must be a whole number from 0 on"),
    "a huge number": ((*FIRST, "resources", "flops"), 10**100, "a whole number of more than 64 bits"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_result(name: str, result: SearchResult) -> None:
    where, value, message = HOSTILE[name]
    data: Any = copy.deepcopy(result.to_dict())
    if not where:
        data = value
    else:
        *way, last = where
        place = data
        for key in way:
            place = place[key]
        if value is GONE:
            del place[last]
        else:
            place[last] = value
    with pytest.raises(ConfigError) as caught:
        SearchResult.from_dict(data)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", [name for name, (ending, _, _) in TEXTS.items() if ending == "json"])
def test_text_that_is_no_data(name: str, tmp_path: Path) -> None:
    _, content, message = TEXTS[name]
    path = tmp_path / "search.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        SearchResult.load(path)
    assert message in str(caught.value) or "must be a dict" in str(caught.value)
