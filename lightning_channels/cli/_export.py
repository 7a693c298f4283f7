"""``lightning-channels export``: a subnet as a file."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_channels.cli._arguments import Commands, add_choices, add_command, whole

if TYPE_CHECKING:
    from lightning_channels.cli._chosen import Subnet

__all__ = ["add_parser", "run"]

_FORMATS = {
    "subnet": ("", ".yaml", ".yml", ".json"),
    "safetensors": (".safetensors",),
    "pt2": (".pt2",),
    "onnx": (".onnx",),
    "torch": (".pt", ".pth"),
}
"""Format → the endings of its files; a folder has none."""

_RUN_FROM_INPUTS = ("pt2", "onnx")

_TEXT = """\
Write one subnet as the small plain model that it is:
  subnet         subnet.yaml with its widths, and its weights beside it, for load_subnet
  safetensors    its state dict
  pt2            a program of torch.export's, for torch.export.load
  onnx           a program for ONNX runtimes
  torch          the pickled module, for torch.load(..., weights_only=False)
Programs take any batch size, and are compared with the model before they get their name. Their example input is the
data's first batch where the config has module and data; else tracer.input_shape says what it is like.
"""

_EXAMPLES = (
    "outputs/2026-01-31/12-00-00 --search search.json --recalibrate 8 -o small.onnx",
    "outputs/2026-01-31/12-00-00 --width 0.5 --recalibrate 8 -o small/subnet.yaml",
    "mine.yaml --checkpoint last.ckpt --choices widths.json --format pt2 -o small.pt2",
    "torchvision.models.resnet18 weights=DEFAULT --width 0.5 -o half.safetensors",
)


def add_parser(commands: Commands) -> None:
    """Add the command to the program."""
    usage = "[--choices FILE | --width W | --search FILE [--pick WHICH]] [--recalibrate N]\n"
    usage += "       [--format FORMAT] [--opset N] [--static-batch] [--no-verify] -o PATH"
    parser = add_command(commands, "export", usage, "write a subnet as a file", _TEXT, _EXAMPLES)
    add_choices(parser, several=False)
    parser.add_argument("-o", "--output-path", metavar="PATH", required=True, help="the file, or a folder for a subnet")
    parser.add_argument("--format", choices=list(_FORMATS), help="by default what the file's ending says")
    parser.add_argument(
        "--recalibrate",
        metavar="N",
        type=whole,
        default=0,
        help="with batch-norm statistics of N training batches; needs module and data in the config",
    )
    parser.add_argument("--opset", metavar="N", type=whole, help="version of ONNX's operators")
    parser.add_argument("--static-batch", action="store_true", help="let programs take the example's batch size alone")
    parser.add_argument("--no-verify", action="store_true", help="don't run programs to compare them with the model")


def run(arguments: Namespace) -> None:
    """Carry out the command.

    Raises:
        ChannelsError: If the model cannot be found, built or loaded, if the choices don't fit it, or if it cannot be
            written in the format.
    """
    from lightning_channels.cli._chosen import Chosen
    from lightning_channels.cli._evaluating import recalibrated_at
    from lightning_channels.cli._output import say, undisturbed
    from lightning_channels.cli._supernet import supernet

    format_ = _checked_format(arguments)
    chosen = Chosen(arguments)
    runs = format_ in _RUN_FROM_INPUTS
    net = supernet(arguments, with_data=True if arguments.recalibrate else None if runs else False)
    subnet = chosen.one(net.mutator)
    options: dict[str, Any] = {}
    with undisturbed():
        if runs:
            options = {"dynamic_batch": not arguments.static_batch, "verify": not arguments.no_verify}
            options |= {"example_inputs": net.inputs()}
        if arguments.opset is not None:
            options["opset"] = arguments.opset
        with recalibrated_at(net, arguments, subnet.choices) as model:
            _WRITERS[format_](model, Path(arguments.output_path), subnet, options)
    say(f"{format_} of {subnet.name} written to {arguments.output_path}")


def _checked_format(arguments: Namespace) -> str:
    """The format, by the file's ending if it isn't said.

    Raises:
        ConfigError: If neither says it, or an option is another format's.
    """
    from lightning_channels.errors import ConfigError

    ending = Path(arguments.output_path).suffix
    found = arguments.format or next((name for name, endings in _FORMATS.items() if ending in endings), None)
    if found is None:
        known = ", ".join(ending for endings in _FORMATS.values() for ending in endings if ending)
        raise ConfigError(f"the ending {ending!r} is of no format; give --format, or one of {known}")
    if ending not in _FORMATS[found] or (Path(arguments.output_path).is_dir() and found != "subnet"):
        wanted = " or ".join(filter(None, _FORMATS[found]))
        raise ConfigError(f"{found} is written to a {wanted} file, got {arguments.output_path}")
    for name, given, formats in (
        ("--opset", arguments.opset is not None, ("onnx",)),
        ("--static-batch", arguments.static_batch, _RUN_FROM_INPUTS),
        ("--no-verify", arguments.no_verify, _RUN_FROM_INPUTS),
    ):
        if given and found not in formats:
            raise ConfigError(f"{name} is for {' and '.join(formats)}, and the format is {found}; leave it out")
    return found


def _write_subnet(model: Any, path: Path, subnet: Subnet, options: dict[str, Any]) -> None:
    from lightning_channels.artifacts import save_subnet

    save_subnet(model, path, subnet.choices, metrics=subnet.metrics or None)


def _write_safetensors(model: Any, path: Path, subnet: Subnet, options: dict[str, Any]) -> None:
    from lightning_channels.artifacts import export_weights

    export_weights(model, path, subnet.choices)


def _write_pt2(model: Any, path: Path, subnet: Subnet, options: dict[str, Any]) -> None:
    from lightning_channels.artifacts import export_pt2

    export_pt2(model, path, choices=subnet.choices, **options)


def _write_onnx(model: Any, path: Path, subnet: Subnet, options: dict[str, Any]) -> None:
    from lightning_channels.artifacts import export_onnx

    export_onnx(model, path, choices=subnet.choices, **options)


def _write_torch(model: Any, path: Path, subnet: Subnet, options: dict[str, Any]) -> None:
    import torch

    from lightning_channels._files import replacing
    from lightning_channels.export import export_subnet

    small = export_subnet(model, subnet.choices).eval()
    with replacing(path) as temporary:
        torch.save(small, temporary)


_WRITERS: dict[str, Callable[[Any, Path, Subnet, dict[str, Any]], None]] = {
    "subnet": _write_subnet,
    "safetensors": _write_safetensors,
    "pt2": _write_pt2,
    "onnx": _write_onnx,
    "torch": _write_torch,
}
