"""Patterns of units' names, as configs write them: ``layer4.*``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from lightning_channels.errors import ConfigError, did_you_mean

__all__ = ["first_matches"]


def first_matches(patterns: Iterable[str], names: Sequence[str], what: str) -> list[str | None]:
    """The first pattern that matches each name.

    Args:
        patterns: Shell-style patterns; a name matches itself, whatever characters are in it.
        names: Units' names.
        what: Whose patterns they are, for the message.

    Returns:
        A pattern for each name, or None where none matches.

    Raises:
        ConfigError: If a pattern matches no name.

    Example:
        >>> first_matches(["stem.*", "*.1"], ["stem.0", "stem.1", "head.0", "head.1"], "the")
        ['stem.*', 'stem.*', None, '*.1']
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            hint = did_you_mean(pattern, names) or "."
            raise ConfigError(f"{what} pattern {pattern!r} matches no unit{hint} Known: {list(names)}")
    return [next((pattern for pattern in patterns if _matches(name, pattern)), None) for name in names]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)
