"""The command line, ``lightning-channels``.

Only argparse is imported here: what a command needs is imported when it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]

_PROGRAM = "lightning-channels"

_COMMANDS = {"units": "lightning_channels.cli._units", "resources": "lightning_channels.cli._resources"}

_SOURCE = """\
CONFIG is one of
  a config's name          model/torchvision, experiment/digits_slimmable, train
  a YAML file              of the same groups, or with a _target_ that builds a model
  an import path           torchvision.models.resnet34 (without pretrained weights, unless weights=... is given)

OVERRIDES are Hydra's, key=value or group=option. For an import path they are the arguments of the model
(width_mult=1.5), except those of the groups unit, mutator and tracer.
"""

_UNITS = """\
Print the channel units of a model as JSON: the template of a mutator, or with --choice the width of each mutable unit.
With --report print a table of them instead: what share of the model each one is, and why what can't change can't.
"""

_EXAMPLES = """\
examples:
  lightning-channels units torchvision.models.mobilenet_v2 width_mult=1.5 --choice
  lightning-channels units model/torchvision model.name=resnet34 unit=one_shot -i -o units.json
  lightning-channels units experiment/autoslim_mbv2_1.5x -i
  lightning-channels units experiment/digits_slimmable -c
  lightning-channels units torchvision.models.swin_t --report
"""


_RESOURCES = """\
Print what a model costs: multiply-accumulates, parameters and bytes of activations, of each module, and of what would
be gone without each unit's channels (a kernel counts for its input's unit and for its output's). All of it is counted
for the tracer's example input, without running the model again; with --choices at these widths.
"""

_RESOURCES_EXAMPLES = """\
examples:
  lightning-channels resources torchvision.models.mobilenet_v2 width_mult=1.5
  lightning-channels resources torchvision.models.resnet50 --choices widths.json
  lightning-channels resources model/digits_resnet tracer.input_shape=[8,1,8,8] --json -o resources.json
  lightning-channels resources experiment/autoslim_mbv2_1.5x
"""


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as for every other bad input; ``--help`` shows the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with code 2."""
        self.exit(2, f"{_PROGRAM}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=_PROGRAM, description="Channel pruning for PyTorch Lightning.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    units = commands.add_parser(
        "units",
        help="print the channel units of a model",
        usage="%(prog)s [-h] [-c] [-i] [--choice | --report | --json] [-o FILE] CONFIG [OVERRIDES ...]",
        description=f"{_UNITS}\n{_SOURCE}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    resources = commands.add_parser(
        "resources",
        help="print what a model's choices cost",
        usage="%(prog)s [-h] [--choices FILE] [--json] [-o FILE] CONFIG [OVERRIDES ...]",
        description=f"{_RESOURCES}\n{_SOURCE}",
        epilog=_RESOURCES_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for command in (units, resources):
        command.add_argument("config", metavar="CONFIG", help="config name, YAML file or import path of the model")
        command.add_argument("-o", "--output-path", metavar="FILE", help="write to this file instead of printing")
    resources.add_argument("--choices", metavar="FILE", help="count at the widths in this YAML or JSON file")
    resources.add_argument("--json", action="store_true", help="output as JSON instead of a table")
    units.add_argument("-c", "--with-channel", action="store_true", help="output with the channels of each unit")
    units.add_argument("-i", "--with-init-args", action="store_true", help="output with the init args of each unit")
    what = units.add_mutually_exclusive_group()
    what.add_argument("--choice", action="store_true", help="output the choices alone; -c and -i are ignored")
    what.add_argument("--report", action="store_true", help="output the report as a table; -c and -i are ignored")
    what.add_argument("--json", action="store_true", help="output the report as JSON; -c and -i are ignored")
    return parser


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    # Overrides may stand before, between and after the options, which argparse allows for no list of positionals.
    arguments, rest = parser.parse_known_args(argv)
    arguments.overrides = [item for item in rest if not item.startswith("-") and ("=" in item or item.startswith("~"))]
    unknown = [item for item in rest if item not in arguments.overrides]
    if unknown:
        parser.error(f"cannot make sense of {' '.join(unknown)}; overrides are written key=value")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        The exit code: 0, or 2 for input that cannot be used (one line on stderr says why).

    Example:
        >>> main(["--version"])
        0.1.0
        0
    """
    parser = _parser()
    arguments = _parse(parser, argv)
    if arguments.version:
        from lightning_channels import __version__

        print(__version__)
        return 0
    if arguments.command is None:
        parser.error(f"which command? Known: {', '.join(_COMMANDS)}")
    run = importlib.import_module(_COMMANDS[arguments.command]).run
    from lightning_channels.errors import ChannelsError

    try:
        run(arguments)
    except (ChannelsError, OSError) as error:
        print(f"{_PROGRAM}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
