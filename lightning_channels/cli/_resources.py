"""``lightning-channels resources``: what a model's choices cost, by module and by unit."""

from __future__ import annotations

from argparse import Namespace

from lightning_channels.cli._arguments import Commands, add_choices, add_command, add_output

__all__ = ["add_parser", "run"]

_TEXT = """\
Print what a model costs: multiply-accumulates, parameters and bytes of activations, of each module, and of what would
be gone without each unit's channels (a kernel counts for its input's unit and for its output's). All of it is counted
for the tracer's example input, without running the model again; with --choices at these widths.
"""

_EXAMPLES = (
    "torchvision.models.mobilenet_v2 width_mult=1.5",
    "torchvision.models.resnet50 --choices widths.json",
    "model/digits_resnet tracer.input_shape=[8,1,8,8] --json -o resources.json",
    "experiment/autoslim_mbv2_1.5x",
    "outputs/2026-01-31/12-00-00 --width 0.5",
)


def add_parser(commands: Commands) -> None:
    """Add the command to the program."""
    usage = "[--choices FILE | --width W | --search FILE [--pick WHICH]] [--json] [-o FILE]"
    resources = add_command(commands, "resources", usage, "print what a model's choices cost", _TEXT, _EXAMPLES)
    add_choices(resources, several=False)
    add_output(resources, "output as JSON instead of a table")


def run(arguments: Namespace) -> None:
    """Carry out the command.

    Raises:
        ChannelsError: If the model cannot be found, built or analysed, if the choices don't fit it, or if the output
            cannot be written.
    """
    from lightning_channels.cli._chosen import Chosen
    from lightning_channels.cli._output import to_json, write
    from lightning_channels.cli._supernet import supernet

    chosen = Chosen(arguments)
    net = supernet(arguments)
    table = net.resources().table(chosen.one(net.mutator).choices)
    text = to_json(table.to_dict()) if arguments.json else str(table)
    write(text, arguments.output_path, f"resources of {len(table.units)} mutable units")
