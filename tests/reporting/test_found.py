"""What a report says of a search, and which searches it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_channels import ConfigError, SearchResult, StructureError, render_report
from lightning_channels.reporting.found import gather_search
from tests.reporting.nets import HIDDEN, STREAM, prepared, searched


def test_candidates_come_with_the_width_of_each_unit() -> None:
    mutator = prepared(choice_mode="ratio")
    result = searched(mutator)
    mutator.set_choices({STREAM: 0.5})
    data = gather_search(mutator, result)
    assert data["units"] == [STREAM, HIDDEN]
    assert len(data["candidates"]) == len(result.candidates) == 16
    for found, candidate in zip(data["candidates"], result.candidates, strict=True):
        assert found["widths"] == [candidate.choices[STREAM] * 8, pytest.approx(candidate.choices[HIDDEN] * 12)]
        assert found["metrics"] == candidate.metrics
        assert found["resources"] == candidate.resources
    assert result.candidates[data["best"]] is result.best
    assert [result.candidates[at] for at in data["front"]] == result.front
    assert mutator.current_choices[STREAM] == 0.5


def test_a_search_that_was_saved_gives_the_same_page(tmp_path: Path) -> None:
    mutator = prepared()
    result = searched(mutator)
    again = SearchResult.load(result.save(tmp_path / "search.json"), mutator)
    assert render_report(mutator, search=again) == render_report(mutator, search=result)


def test_a_search_of_another_model_is_refused() -> None:
    result = searched(prepared())
    other = prepared(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
    with pytest.raises(StructureError, match="the search result is of the supernet"):
        render_report(other, search=result)


@pytest.mark.parametrize("given", ["search.json", {"candidates": []}])
def test_a_search_must_be_a_result(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"search must be a SearchResult, got (str|dict); SearchResult\.load reads"):
        render_report(prepared(), search=given)
