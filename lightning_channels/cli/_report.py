"""``lightning-channels report``: a page to look at."""

from __future__ import annotations

from argparse import Namespace

from lightning_channels.cli._arguments import Commands, add_choices, add_command

__all__ = ["add_parser", "run"]

_TEXT = """\
Write one HTML page, which works offline: the network's units as a graph with their widths, what each module costs at
full width and at these widths, why what can't change can't, and the candidates of a search.
"""

_EXAMPLES = (
    "outputs/2026-01-31/12-00-00 --search search.json -o report.html",
    "torchvision.models.resnet50 --width 0.5 -o resnet50.html",
    "--checkpoint outputs/2026-01-31/12-00-00/slimmable.ckpt --choices widths.json -o report.html",
)


def add_parser(commands: Commands) -> None:
    """Add the command to the program."""
    usage = "[--choices FILE | --width W | --search FILE [--pick WHICH]] [--title TITLE] -o FILE"
    parser = add_command(commands, "report", usage, "write an HTML page of a model or a search", _TEXT, _EXAMPLES)
    add_choices(parser, several=False)
    parser.add_argument("--title", metavar="TITLE", help="the page's heading (the model's class by default)")
    parser.add_argument("-o", "--output-path", metavar="FILE", required=True, help="the page, an .html file")


def run(arguments: Namespace) -> None:
    """Carry out the command.

    Raises:
        ChannelsError: If the model cannot be found, built or analysed, if the choices or the search don't fit it, or if
            the page cannot be written.
    """
    from lightning_channels.cli._chosen import Chosen
    from lightning_channels.cli._output import say
    from lightning_channels.cli._supernet import supernet
    from lightning_channels.reporting import save_report

    chosen = Chosen(arguments)
    mutator = supernet(arguments).mutator
    mutator.set_choices(chosen.one(mutator).choices)
    save_report(mutator, arguments.output_path, search=chosen.search, title=arguments.title)
    say(f"report of {len(mutator.mutable_units)} mutable units written to {arguments.output_path}")
