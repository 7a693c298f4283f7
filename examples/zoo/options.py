"""What the command lines of the examples have in common; what a net is trained and pruned with stands in its own file.

With ``--generated`` what isn't said has other defaults: a net and pictures so small that a CPU is done in a minute.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDERS = "folder of train/CLASS/* and val/CLASS/*"
VOC = "folder of VOCdevkit/VOC2012"


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Prints the text above a script as it is, and each option's default."""


def parser(description: str | None, data: str) -> argparse.ArgumentParser:
    """A command line that begins with where the data are; a script adds its own options.

    Args:
        description: The text above the script.
        data: What is read, ``FOLDERS`` or ``VOC``; the latter can be downloaded.
    """
    found = argparse.ArgumentParser(description=description, formatter_class=Help)
    found.add_argument("--data", type=Path, default=Path("data"), help=data)
    if data == VOC:
        found.add_argument("--download", action="store_true", help="let torchvision download it there, 2 GB")
    return found


def parse(
    found: argparse.ArgumentParser,
    argv: list[str] | None,
    name: str,
    batch_size: int,
    draw: Callable[[Path], Path],
    tiny: Mapping[str, Any],
) -> argparse.Namespace:
    """Add what every script has, and read a command line.

    Args:
        found: Of :func:`parser`, with the script's own options.
        argv: The command line; the program's if it is None.
        name: Of the folder for the small net, in ``outputs``.
        batch_size: By default.
        draw: Folder → the folder of the pictures that were drawn into it, with ``--generated``.
        tiny: Other defaults, with ``--generated``.
    """
    add = found.add_argument
    add("--batch-size", type=int, default=batch_size)
    add("--workers", type=int, default=4, help="processes that load images")
    add("--accelerator", default="auto")
    add("--output", type=Path, default=Path("outputs", name), help="folder for the small net")
    add("--generated", action="store_true", help="draw small images instead of reading DATA, and take a small net")
    args = found.parse_args(argv)
    if args.generated:
        found.set_defaults(**tiny, data=draw(args.output / "data"), workers=0, accelerator="cpu")
        args = found.parse_args(argv)
    missing = [name for name in _needed(args) if not (args.data / name).is_dir()]
    if missing:
        download = ", --download fetches it" if "download" in args else ""
        found.error(f"--data {args.data} has no folder {' and no '.join(missing)}{download}; --generated needs no data")
    return args


def _needed(args: argparse.Namespace) -> list[str]:
    """What the data's folder must have."""
    if "download" not in args:
        return ["train", "val"]
    return [] if args.download else ["VOCdevkit/VOC2012"]
