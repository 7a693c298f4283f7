"""What the commands' parsers share; only argparse is imported, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

__all__ = [
    "PROGRAM",
    "Commands",
    "Parser",
    "add_choices",
    "add_command",
    "add_output",
    "add_progress",
    "add_recalibration",
    "parse",
    "whole",
]

PROGRAM = "lightning-channels"

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

_SOURCE = """\
CONFIG is one of
  a config's name          model/torchvision, experiment/digits_slimmable, train
  a YAML file              of the same groups, or with a _target_ that builds a model
  an import path           torchvision.models.resnet34 (without pretrained weights, unless weights=... is given)
  a run's folder           outputs/2026-01-31/12-00-00: its config, and the newest checkpoint in it
  a checkpoint             outputs/2026-01-31/12-00-00/slimmable.ckpt: the same, with these weights

OVERRIDES are Hydra's, key=value or group=option. For an import path they are the arguments of the model
(width_mult=1.5), except those of the groups unit, mutator and tracer.
"""

_WITH_DATA = """\
The config must say what is validated on what: module, a LightningModule, and datamodule (or data), a
LightningDataModule, each with a _target_. A run of examples/train.py has both.
"""

_EXIT_CODES = """\
exit codes: 0 done; 1 something unexpected, with its traceback; 2 input that cannot be used, with one line that says
why; 3 a limit that no choice of widths can meet; 130 interrupted.
"""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as for every other bad input; ``--help`` shows the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with code 2."""
        self.exit(2, f"{PROGRAM}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def add_command(
    commands: Commands, name: str, usage: str, help_: str, text: str, examples: Sequence[str], with_data: bool = False
) -> Parser:
    """A command's parser, with what all commands have.

    Args:
        commands: The program's commands.
        name: Of the command.
        usage: Its own options, as the first line of its help shows them.
        help_: What it does, in a few words.
        text: What it does.
        examples: Command lines, without the program and the command.
        with_data: Whether it validates.
    """
    lines = "".join(f"  {PROGRAM} {name} {line}\n" for line in examples)
    parser: Parser = commands.add_parser(
        name,
        help=help_,
        usage=f"%(prog)s [-h] [--checkpoint FILE] {usage} [CONFIG] [OVERRIDES ...]",
        description="\n".join([text, _SOURCE, *([_WITH_DATA] if with_data else [])]),
        epilog=f"examples:\n{lines}\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="weights and units of this checkpoint, or of the newest in this folder"
    )
    return parser


def add_output(parser: Parser, as_json: str | None = None) -> None:
    """Where the output goes, and with ``as_json`` in which form."""
    parser.add_argument("-o", "--output-path", metavar="FILE", help="write to this file instead of printing")
    if as_json is not None:
        parser.add_argument("--json", action="store_true", help=as_json)


def add_choices(parser: Parser, several: bool) -> None:
    """The widths that a command works at."""
    again = "; may be given several times" if several else ""
    group: Any = parser.add_argument_group(
        "widths", "by default those of the checkpoint" + (", or the widest; any number of them" if several else "")
    )
    if not several:
        group = group.add_mutually_exclusive_group()
    action = "append" if several else "store"
    group.add_argument("--choices", metavar="FILE", action=action, help=f"those in this YAML or JSON file{again}")
    group.add_argument(
        "--width", metavar="W", action=action, help=f"max, min, or one part of all units' channels, as 0.5{again}"
    )
    group.add_argument("--search", metavar="FILE", help="those found by a search (search.json)")
    picks = "best (the default), front, or the index of a candidate" if several else "best (the default) or its index"
    parser.add_argument("--pick", metavar="WHICH", help=f"which candidate of the search: {picks}")


def add_recalibration(parser: Parser) -> None:
    """What evaluation does besides."""
    parser.add_argument(
        "--batches", metavar="N", type=whole, help="validate on the first N batches of the data (all by default)"
    )
    parser.add_argument(
        "--recalibrate",
        metavar="N",
        type=whole,
        default=0,
        help="compute batch-norm statistics anew on N training batches, for each choice of widths",
    )


def add_progress(parser: Parser) -> None:
    """Whether a bar is shown."""
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a progress bar on stderr (by default if that is a terminal)",
    )


def whole(text: str) -> int:
    """A number of something.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number is needed, got {text!r}")
    return int(text)


def parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line, where CONFIG and overrides may stand before, between and after the options."""
    arguments, rest = parser.parse_known_args(argv)  # argparse allows such positionals for no list of them
    words = [item for item in rest if not item.startswith("-")]
    # folders of sweeps are named after overrides
    configs = [item for item in words if not item.startswith("~") and ("=" not in item or os.path.exists(item))]
    arguments.config = configs[0] if configs else None
    arguments.overrides = [item for item in words if item not in configs[:1] and ("=" in item or item[0] == "~")]
    unknown = [item for item in rest if item != arguments.config and item not in arguments.overrides]
    if unknown:
        parser.error(f"cannot make sense of {' '.join(unknown)}; overrides are written key=value")
    if arguments.command is not None and not configs and arguments.checkpoint is None:
        parser.exit(
            2,
            f"{PROGRAM}: error: the following arguments are required: CONFIG (see {PROGRAM} {arguments.command} "
            "--help)\n",
        )
    return arguments
