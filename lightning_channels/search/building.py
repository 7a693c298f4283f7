"""Search algorithms from what users write."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

from lightning_channels._plain import to_plain
from lightning_channels.errors import ConfigError
from lightning_channels.registry import SEARCHES
from lightning_channels.search.protocol import SearchAlgorithm

__all__ = ["SearchLike", "arguments_of", "build_search", "name_of"]

SearchLike: TypeAlias = "str | Mapping[str, Any] | SearchAlgorithm | type[SearchAlgorithm]"


def build_search(algorithm: SearchLike) -> SearchAlgorithm:
    """Make a search algorithm of what a user wrote.

    Args:
        algorithm: A registered name, a dict with ``type`` and arguments, an algorithm or its class.

    Returns:
        The algorithm.

    Raises:
        ConfigError: If the name is unknown, or an argument doesn't fit.

    Example:
        >>> build_search({"type": "evolution", "population": 30}).population
        30
    """
    if isinstance(algorithm, (str, Mapping)):
        made: Any = SEARCHES.build(SEARCHES.config_of(algorithm, "algorithm"))
    else:
        made = algorithm() if isinstance(algorithm, type) else algorithm
    if isinstance(made, SearchAlgorithm):
        return made
    raise ConfigError(
        "a search algorithm must be a name, a dict with 'type', or an object with the methods start, ask and tell, got "
        f"{type(made).__name__}. Known names: {', '.join(SEARCHES.names())}"
    )


def name_of(algorithm: SearchAlgorithm) -> str:
    """The name that configs call an algorithm by, or its class's."""
    return SEARCHES.name_of(type(algorithm)) or type(algorithm).__name__


def arguments_of(algorithm: SearchAlgorithm) -> dict[str, Any]:
    """The arguments of an algorithm that is a dataclass; none are known of others.

    Raises:
        ConfigError: If one isn't plain data.
    """
    own: Any = algorithm
    fields = dataclasses.fields(own) if dataclasses.is_dataclass(own) else ()
    given = {field.name: getattr(own, field.name) for field in fields if field.init}
    found: dict[str, Any] = to_plain(given, f"the arguments of {name_of(algorithm)}")
    return found
