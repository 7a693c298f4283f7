"""``lightning-channels units``: a model's units as JSON, or a report on them."""

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


def run(arguments: Namespace) -> None:
    """Carry out the command.

    Raises:
        ChannelsError: If the model cannot be found, built or analysed, or if the output cannot be written.
    """
    # Whatever the model's code prints must not end up in the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        config, model = load(arguments.config, arguments.overrides)
        mutator = build(mutator_config(config))
        mutator.prepare_from_supernet(model)
    text = (str(mutator.report()) if arguments.report else _to_json(_output(mutator, arguments))) + "\n"
    if arguments.output_path is None:
        sys.stdout.write(text)
    else:
        try:
            Path(arguments.output_path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {arguments.output_path}: {error.strerror or error}") from error
        print(f"{len(mutator.mutable_units)} mutable units written to {arguments.output_path}", file=sys.stderr)


def _output(mutator: Any, arguments: Namespace) -> Any:
    if arguments.choice:
        return mutator.choice_template
    if arguments.json:
        return mutator.report().to_dict()
    return mutator.config_template(with_unit_init_args=arguments.with_init_args, with_channels=arguments.with_channel)


def _to_json(output: Any) -> str:
    return json.dumps(output, indent=4, separators=(",", ":"))
