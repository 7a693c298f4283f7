"""The package's errors: few classes with one base, so that a caller can catch all of them at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from itertools import islice

__all__ = [
    "ChannelsError",
    "ChoiceError",
    "ConfigError",
    "ExportError",
    "LimitError",
    "PrepareError",
    "StructureError",
    "TraceError",
    "check_complete",
    "check_keys",
    "did_you_mean",
]


_MAX_MESSAGE = 4000
_MAX_COMPARED = 2000
_MAX_NAME = 200


class ChannelsError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        message: What is wrong. A very long one, such as one that quotes a whole file, loses its middle.
    """

    def __init__(self, message: str = "") -> None:
        half = _MAX_MESSAGE // 2
        super().__init__(message if len(message) <= _MAX_MESSAGE else f"{message[:half]} … {message[-half:]}")


class ConfigError(ChannelsError, ValueError):
    """A config, template or file holds an unknown key, an unknown type or a value that is not allowed."""


class ChoiceError(ConfigError):
    """A choice names an unknown unit, is out of range, or is fractional where a number of channels is asked for."""


class LimitError(ConfigError):
    """A limit or target that no choice of widths can meet."""


class StructureError(ConfigError):
    """A checkpoint's or file's structure does not fit the model."""


class TraceError(ChannelsError, RuntimeError):
    """The model could not be run on its example inputs."""


class PrepareError(ChannelsError, RuntimeError):
    """The model is in a state in which what was asked for cannot be done (not prepared, prepared twice, sharded)."""


class ExportError(ChannelsError, RuntimeError):
    """A model can't be written in a format, or what was written computes something else."""


def did_you_mean(name: object, allowed: Iterable[str]) -> str:
    """The part of an error message that names the nearest match.

    Args:
        name: What was given.
        allowed: What would have been right.

    Returns:
        ``"; did you mean 'x'?"``, or an empty string where nothing comes near.
    """
    known = [str(item) for item in islice(allowed, _MAX_COMPARED)]  # comparing takes time, and a file may hold any name
    close = difflib.get_close_matches(str(name)[:_MAX_NAME], known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_keys(
    given: object, allowed: Iterable[str], what: str, error: type[ConfigError] = ConfigError, noun: str = "key"
) -> None:
    """Refuse anything but a dict with known keys.

    Args:
        given: The dict.
        allowed: The known keys.
        what: Whose keys they are, for the message.
        error: Class of the error.
        noun: What a key is called in the message.

    Raises:
        ConfigError: If ``given`` is no dict, or has another key; the message names the nearest match.
    """
    allowed = list(allowed)
    if not isinstance(given, Mapping):
        raise error(f"{what} must be a dict, got {given!r}")
    for key in given:
        if key not in allowed:
            hint = did_you_mean(key, allowed) or "."
            raise error(f"{what} takes no {noun} {key!r}{hint} Allowed: {', '.join(allowed)}")


def check_complete(
    given: Mapping[str, object],
    needed: Iterable[str],
    what: str,
    error: type[ConfigError] = ConfigError,
    advice: str | None = None,
) -> None:
    """Refuse a dict that lacks a key.

    Args:
        given: The dict.
        needed: The keys that must be there.
        what: Whose keys they are, for the message.
        error: Class of the error.
        advice: What the message ends with; by default which keys are needed.

    Raises:
        ConfigError: If one is missing; the message names the first.
    """
    needed = list(needed)
    for key in needed:
        if key not in given:
            raise error(f"{what} has no {key!r}; {advice or 'it needs the keys ' + ', '.join(needed)}")
