"""Ctrl-C ends a command with one line, whatever runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "interruptible"]


class Interrupted(BaseException):
    """The user pressed Ctrl-C.

    No KeyboardInterrupt, which Lightning's trainer takes for the wish that it ends the process itself.

    Attributes:
        told: What the user should know of what was begun, to be added by who knows it.
    """

    told = ""


@contextmanager
def interruptible() -> Iterator[None]:
    """For this time Ctrl-C raises :class:`Interrupted`; outside of the main thread nothing changes.

    Raises:
        Interrupted: If the user presses Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted from None
    finally:
        signal.signal(signal.SIGINT, before)
