"""The package's errors as Lightning users expect them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_channels.errors import ChannelsError

__all__ = ["as_misconfiguration"]


@contextmanager
def as_misconfiguration(who: str, advice: str = "") -> Iterator[None]:
    """Raise what the package refuses as a ``MisconfigurationException``, chained from the original error.

    Args:
        who: Begins the message: the callback's state key.
        advice: Ends the message: what to do.
    """
    try:
        yield
    except ChannelsError as error:
        raise MisconfigurationException(f"{who}: {error}{'. ' + advice if advice else ''}") from error
