"""``lightning-channels units``: a model's units as JSON, or a report on them."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from lightning_channels.cli._arguments import Commands, add_command, add_output

__all__ = ["add_parser", "run"]

_TEXT = """\
Print the channel units of a model as JSON: the template of a mutator, or with --choice the width of each mutable unit.
With --report print a table of them instead: what share of the model each one is, and why what can't change can't.
"""

_EXAMPLES = (
    "torchvision.models.mobilenet_v2 width_mult=1.5 --choice",
    "model/torchvision model.name=resnet34 unit=one_shot -i -o units.json",
    "experiment/autoslim_mbv2_1.5x -i",
    "experiment/digits_slimmable -c",
    "torchvision.models.swin_t --report",
    "outputs/2026-01-31/12-00-00 --choice",
)


def add_parser(commands: Commands) -> None:
    """Add the command to the program."""
    usage = "[-c] [-i] [--choice | --report | --json] [-o FILE]"
    units = add_command(commands, "units", usage, "print the channel units of a model", _TEXT, _EXAMPLES)
    add_output(units)
    units.add_argument("-c", "--with-channel", action="store_true", help="output with the channels of each unit")
    units.add_argument("-i", "--with-init-args", action="store_true", help="output with the init args of each unit")
    what = units.add_mutually_exclusive_group()
    what.add_argument("--choice", action="store_true", help="output the choices alone; -c and -i are ignored")
    what.add_argument("--report", action="store_true", help="output the report as a table; -c and -i are ignored")
    what.add_argument("--json", action="store_true", help="output the report as JSON; -c and -i are ignored")


def run(arguments: Namespace) -> None:
    """Carry out the command.

    Raises:
        ChannelsError: If the model cannot be found, built or analysed, or if the output cannot be written.
    """
    from lightning_channels.cli._output import to_json, write
    from lightning_channels.cli._supernet import supernet

    mutator = supernet(arguments).mutator
    text = str(mutator.report()) if arguments.report else to_json(_output(mutator, arguments))
    write(text, arguments.output_path, f"{len(mutator.mutable_units)} mutable units")


def _output(mutator: Any, arguments: Namespace) -> Any:
    if arguments.choice:
        return mutator.choice_template
    if arguments.json:
        return mutator.report().to_dict()
    return mutator.config_template(with_unit_init_args=arguments.with_init_args, with_channels=arguments.with_channel)
