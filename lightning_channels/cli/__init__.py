"""The command line, ``lightning-channels``.

Only argparse is imported here and at the top of the commands' modules: what a command needs is imported when it runs,
so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from lightning_channels.cli import _eval, _export, _report, _resources, _search, _units
from lightning_channels.cli._arguments import PROGRAM, Commands, Parser, parse
from lightning_channels.cli._interrupt import Interrupted, interruptible

__all__ = ["main"]

_COMMANDS = {
    "units": _units,
    "resources": _resources,
    "search": _search,
    "eval": _eval,
    "export": _export,
    "report": _report,
}

_TEXT = """\
Channel pruning for PyTorch Lightning: look at a model's channels, and take a trained supernet from the search for its
best subnet to the file that is deployed. Every command has a --help with examples.
"""


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description=_TEXT)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands: Commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for command in _COMMANDS.values():
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        The exit code: 0; 1 for what is unexpected; 2 for input that cannot be used, and 3 for a limit that cannot be
        met (one line on stderr says why); 130 after an interruption.

    Example:
        >>> main(["--version"])
        0.1.0
        0
    """
    parser = _parser()
    arguments = parse(parser, argv)
    if arguments.version:
        from lightning_channels import __version__

        print(__version__)
        return 0
    if arguments.command is None:
        parser.error(f"which command? Known: {', '.join(_COMMANDS)}")
    try:
        with interruptible():
            _COMMANDS[arguments.command].run(arguments)
    except Interrupted as stop:
        print(f"\n{PROGRAM}: interrupted{stop.told}", file=sys.stderr)
        return 130
    except Exception as error:
        from lightning_channels.cli._output import is_first

        code = _exit_code(error)
        if code == 1:
            traceback.print_exc()
        said = " ".join(str(error).split())
        if code == 1 or is_first():  # of torchrun's processes one tells what all of them found
            print(f"{PROGRAM}: error: {said if code != 1 else f'{type(error).__name__}: {said}'}", file=sys.stderr)
        return code
    return 0


def _exit_code(error: Exception) -> int:
    """1 for what nobody thought of: a fault of ours, or something that the user's own code raised."""
    from lightning_channels.errors import ChannelsError, LimitError

    # Lightning isn't imported to ask for the class of its own that means the same
    if isinstance(error, LimitError):
        return 3
    refused = isinstance(error, (ChannelsError, OSError)) or type(error).__name__ == "MisconfigurationException"
    return 2 if refused else 1
