"""What a search found, as plain data for a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_channels.errors import ChoiceError, ConfigError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.reporting.facts import finite
from lightning_channels.resources import Resources

if TYPE_CHECKING:
    from lightning_channels.search import SearchResult

__all__ = ["gather_search"]


def gather_search(mutator: ChannelMutator, search: SearchResult) -> dict[str, Any]:
    """The candidates with what they are worth, what they cost, and how wide each unit is in them.

    Args:
        mutator: Of the model that was searched.
        search: What was found.

    Raises:
        ConfigError: If the search is one of another model.
    """
    plain = search.to_dict()
    resources = Resources(mutator)
    candidates = []
    for candidate in plain["candidates"]:
        try:
            widths = resources.numbers(candidate["choices"]).tolist()
        except ChoiceError as error:
            raise ConfigError(f"the search is one of another model: {error}. Give the mutator that it was done on") from None
        candidates.append(
            {
                "metrics": finite(candidate["metrics"]),
                "resources": finite(candidate["resources"]),
                "generation": candidate["generation"],
                "widths": widths,
            }
        )
    return {
        **{key: plain[key] for key in ("metric", "mode", "objectives", "algorithm", "seed", "limits", "best", "front")},
        "units": resources.units,
        "candidates": candidates,
    }
