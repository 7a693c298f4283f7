"""``lightning-channels resources``: what a model's choices cost, by module and by unit."""

from __future__ import annotations

from argparse import Namespace

from lightning_channels.cli._output import prepared, to_json, write
from lightning_channels.resources import Resources
from lightning_channels.samplers import read_choices

__all__ = ["run"]


def run(arguments: Namespace) -> None:
    """Carry out the command.

    Raises:
        ChannelsError: If the model cannot be found, built or analysed, if the choices don't fit it, or if the output
            cannot be written.
    """
    choices = None if arguments.choices is None else read_choices(arguments.choices)
    mutator = prepared(arguments)
    table = Resources(mutator).table(choices)
    text = to_json(table.to_dict()) if arguments.json else str(table)
    write(text, arguments.output_path, f"resources of {len(table.units)} mutable units")
