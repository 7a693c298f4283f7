"""What a search found, as plain data for a report."""

from __future__ import annotations

from typing import Any

from lightning_channels.errors import ConfigError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.resources import Resources
from lightning_channels.search import SearchResult

__all__ = ["gather_search"]

_TAKEN = ("metric", "mode", "objectives", "algorithm", "seed", "limits", "best", "front")


def gather_search(mutator: ChannelMutator, search: SearchResult) -> dict[str, Any]:
    """The candidates with what they scored, what they cost, and how wide each unit is in them.

    Args:
        mutator: Of the model that was searched.
        search: What was found.

    Raises:
        ConfigError: If it is no search's result, or one of another model.
    """
    if not isinstance(search, SearchResult):
        raise ConfigError(f"search must be a SearchResult, got {type(search).__name__}; SearchResult.load reads a file")
    search.check(mutator)
    plain, resources = search.to_dict(), Resources(mutator)
    candidates = [
        {
            "metrics": candidate.metrics,
            "resources": candidate.resources,
            "generation": candidate.generation,
            "widths": resources.numbers(candidate.choices).tolist(),
        }
        for candidate in search.candidates
    ]
    return {**{key: plain[key] for key in _TAKEN}, "units": resources.units, "candidates": candidates}
