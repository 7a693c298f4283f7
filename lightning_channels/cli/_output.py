"""What the commands share: a prepared model, and where their output goes."""

from __future__ import annotations

import contextlib
import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning_channels._config import mutator_config
from lightning_channels.cli._source import load
from lightning_channels.errors import ConfigError
from lightning_channels.registry import build

__all__ = ["prepared", "to_json", "write"]


def prepared(arguments: Namespace) -> Any:
    """The mutator of the model that a command was given, prepared.

    Raises:
        ChannelsError: If the model cannot be found, built or analysed.
    """
    # Whatever the model's code prints must not end up in the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        config, model = load(arguments.config, arguments.overrides)
        mutator = build(mutator_config(config))
        mutator.prepare_from_supernet(model)
    return mutator


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
    if path is None:
        sys.stdout.write(f"{text}\n")
        return
    try:
        Path(path).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    print(f"{what} written to {path}", file=sys.stderr)
