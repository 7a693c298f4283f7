"""Which line of the user's code is running."""

from __future__ import annotations

import os
import sys
import sysconfig
from types import FrameType

import torch

__all__ = ["calling_line", "line_in", "line_of"]

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_BETWEEN = tuple(os.path.join("tracing", name) for name in ("recorder.py", "borrowing.py"))
"""What stands between the user's code and PyTorch's."""
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_PYTHON = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = sysconfig.get_path("purelib") + os.sep  # inside the standard library's folder, and not of it

_SHOWN: dict[str, str | None] = {}
"""Code's file → how it is shown; ``None`` if it isn't the user's, and empty if it is ours. Read often, so kept."""


def calling_line() -> str:
    """File and line of the innermost running code that the user wrote (or installed), ``"net.py:42"``.

    Relative to the working directory where the file is inside it. Code that called this package doesn't count: empty
    if there is nothing but PyTorch's code between.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _shown(frame) == "":  # from our own frames …
        frame = frame.f_back
    while frame is not None:
        name = frame.f_code.co_filename
        shown = _SHOWN[name] if name in _SHOWN else _shown(frame)
        if shown is not None:  # … to our own
            return shown and f"{shown}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def line_of(frame: FrameType, number: int) -> str:
    """File and line of a frame, as in a traceback; empty if it is PyTorch's, the standard library's or our own."""
    shown = _shown(frame)
    return f"{shown}:{number}" if shown else ""


def line_in(name: str, number: int) -> str | None:
    """File and line of code that ran; empty if it is our own, ``None`` if it is PyTorch's or the standard library's."""
    shown = _shown_name(name)
    return shown and f"{shown}:{number}"


def _shown(frame: FrameType) -> str | None:
    return _shown_name(frame.f_code.co_filename)


def _shown_name(name: str) -> str | None:
    if name not in _SHOWN:
        _SHOWN[name] = None if name.startswith("<") else _of_path(os.path.abspath(name))
    return _SHOWN[name]


def _of_path(path: str) -> str | None:
    if path.startswith(_OURS):
        return None if path.endswith(_BETWEEN) else ""
    if path.startswith(_TORCH) or (path.startswith(_PYTHON) and not path.startswith(_INSTALLED)):
        return None
    return path.removeprefix(os.getcwd() + os.sep)
