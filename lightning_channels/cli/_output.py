"""Where the commands' output goes."""

from __future__ import annotations

import json
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from lightning_channels._files import replacing
from lightning_channels._progress import told
from lightning_channels.errors import ConfigError

__all__ = ["is_first", "say", "shown", "to_json", "undisturbed", "wants_bar", "write"]


def is_first() -> bool:
    """Whether this process is the one that writes, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


_OF_OTHERS = (".*LeafSpec.*is deprecated.*", ".*does not have many workers.*")
"""What torch says of Lightning's code, and Lightning of loaders that are as their user wants them."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever a user's code prints goes to stderr, and not into the output."""
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        for message in _OF_OTHERS:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def shown(arguments: Namespace, what: str, total: int | None) -> Iterator[Callable[[], object]]:
    """A bar on stderr, where somebody looks at it; yields what is to be called after each subnet."""
    with told(wants_bar(arguments), what, total, "subnet") as step:
        yield step


def wants_bar(arguments: Namespace) -> bool:
    """Whether a bar is to be shown."""
    return is_first() and bool(sys.stderr.isatty() if arguments.progress is None else arguments.progress)


def say(message: str) -> None:
    """Tell the user something that is no part of the output."""
    if is_first():
        print(message, file=sys.stderr)


def to_json(output: Any) -> str:
    """Plain data as JSON that a person can read."""
    return json.dumps(output, indent=4, separators=(",", ":"))


def write(text: str, path: str | None, what: str) -> None:
    """Print a command's output, or write it to a file and say so.

    Args:
        text: The output, without a line break at its end.
        path: Of the file; ``None`` to print.
        what: What is written, for the message.

    Raises:
        ConfigError: If the file cannot be written.
    """
    if not is_first():
        return
    if path is None:
        sys.stdout.write(f"{text}\n")
        return
    file = Path(path)
    try:
        if file.is_file() or (file.parent.is_dir() and not file.exists()):
            with replacing(file) as temporary:
                temporary.write_text(f"{text}\n", encoding="utf-8")
        else:  # a device or a pipe, which nothing can take the place of; or an error
            file.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    say(f"{what} written to {path}")
