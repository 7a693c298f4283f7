"""How far a long work is: told to a function of the user's, or shown as tqdm's bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from lightning_channels.errors import ConfigError

__all__ = ["Progress", "check_progress", "told"]

Progress: TypeAlias = bool | Callable[[int, int | None], Any] | None
"""False or None for nothing, True for a bar on the standard error, or a function that is called with how much is done
and how much there is, None where that isn't known."""


def check_progress(progress: object) -> None:
    """Refuse what is neither.

    Raises:
        ConfigError: If ``progress`` can't be called and is no bool.
    """
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise ConfigError(
            f"progress must be true for a bar, or a function that is called with (done, total), got {progress!r}"
        )


@contextmanager
def told(progress: Progress, what: str, total: int | None, unit: str = "batch") -> Iterator[Callable[[], object]]:
    """For the time of the work.

    Args:
        progress: As the user gave it, checked.
        what: What the bar calls the work.
        total: How many parts it has, if that is known.
        unit: What the bar calls a part.

    Yields:
        What is to be called after each part.
    """
    if callable(progress):
        yield _counting(progress, total)
    elif progress:
        from tqdm import tqdm  # comes with lightning; it isn't imported until a bar is asked for

        with tqdm(total=total, desc=what, unit=unit) as bar:
            yield bar.update
    else:
        yield lambda: None


def _counting(tell: Callable[[int, int | None], Any], total: int | None) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        tell(done, total)

    return step
