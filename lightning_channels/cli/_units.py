"""``lightning-channels units``: a model's units as JSON, or a report on them."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from lightning_channels.cli._output import prepared, to_json, write

__all__ = ["run"]


def run(arguments: Namespace) -> None:
    """Carry out the command.

    Raises:
        ChannelsError: If the model cannot be found, built or analysed, or if the output cannot be written.
    """
    mutator = prepared(arguments)
    text = str(mutator.report()) if arguments.report else to_json(_output(mutator, arguments))
    write(text, arguments.output_path, f"{len(mutator.mutable_units)} mutable units")


def _output(mutator: Any, arguments: Namespace) -> Any:
    if arguments.choice:
        return mutator.choice_template
    if arguments.json:
        return mutator.report().to_dict()
    return mutator.config_template(with_unit_init_args=arguments.with_init_args, with_channels=arguments.with_channel)
