"""``lightning-channels eval``: what subnets are worth."""

from __future__ import annotations

from argparse import Namespace

from lightning_channels.cli._arguments import (
    Commands,
    add_choices,
    add_command,
    add_output,
    add_progress,
    add_recalibration,
)

__all__ = ["add_parser", "run"]

_TEXT = """\
Validate a trained supernet at several widths: what the LightningModule's validation logs, and what the widths cost for
one sample. Batch-norm statistics of a supernet fit no single width: --recalibrate computes them anew for each.
"""

_EXAMPLES = (
    "outputs/2026-01-31/12-00-00 --width max --width 0.5 --width min --recalibrate 8",
    "outputs/2026-01-31/12-00-00 --search search.json --pick front --json -o front.json",
    "experiment/digits_slimmable --checkpoint slimmable.ckpt --choices widths.json trainer.accelerator=cpu",
    "mine.yaml --checkpoint last.ckpt --batches 20 data.batch_size=256",
)


def add_parser(commands: Commands) -> None:
    """Add the command to the program."""
    usage = "[--choices FILE] [--width W] [--search FILE [--pick WHICH]] [--batches N] [--recalibrate N]\n"
    usage += "       [--[no-]progress] [--json] [-o FILE]"
    parser = add_command(commands, "eval", usage, "validate subnets of a supernet", _TEXT, _EXAMPLES, with_data=True)
    add_choices(parser, several=True)
    add_recalibration(parser)
    add_progress(parser)
    add_output(parser, "output as JSON instead of a table")


def run(arguments: Namespace) -> None:
    """Carry out the command.

    Raises:
        ChannelsError: If the module cannot be found, built or loaded, or if the choices don't fit it.
    """
    from lightning_channels.cli._chosen import Chosen
    from lightning_channels.cli._evaluating import evaluator
    from lightning_channels.cli._output import shown, to_json, undisturbed, write
    from lightning_channels.cli._supernet import supernet
    from lightning_channels.cli._table import subnet_table

    chosen = Chosen(arguments)
    net = supernet(arguments, with_data=True)
    subnets, resources = chosen.all(net.mutator), net.resources()
    rows = []
    with undisturbed(), evaluator(net, arguments) as evaluate, shown(arguments, "eval", len(subnets)) as step:
        for name, choices, _ in subnets:
            metrics = evaluate(choices)
            rows.append((name, choices, resources.count(choices), metrics))
            step()
    if arguments.json:
        keys = ("name", "choices", "resources", "metrics")
        text = to_json({"subnets": [dict(zip(keys, row, strict=True)) for row in rows]})
    else:
        text = subnet_table([(name, costs, metrics) for name, _, costs, metrics in rows])
    write(text, arguments.output_path, f"metrics of {len(rows)} subnet{'s' if len(rows) > 1 else ''}")
