"""What the tools that go through lists of models share: their arguments, and which models those name."""

from __future__ import annotations

import argparse
import fnmatch
from pathlib import Path

from benchmarks import _models, _results

__all__ = ["chosen", "parser_of"]

_RAW = Path(__file__).resolve().parent / "raw"


def parser_of(tool: str, description: str | None, timeout: float) -> argparse.ArgumentParser:
    """A parser with the arguments that the tools share.

    Args:
        tool: Its name, also of its file of rows.
        description: What its help begins with.
        timeout: Seconds that each model may take if nothing else is asked for.
    """
    parser = argparse.ArgumentParser(
        prog=f"{tool}.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("models", nargs="*", help="torchvision names, timm:NAME or MODULE:CALLABLE; default: the families")
    add("--family", action="append", choices=_models.FAMILIES, help="a list of models; may be given several times")
    add("--only", default="*", metavar="PATTERN", help="of those, the ones that match (resnet*)")
    add("--json", type=Path, default=_RAW / f"{tool}.jsonl", help="file of the rows (%(default)s)")
    add("--results", type=Path, default=_results.DEFAULT, help="file of the table (%(default)s)")
    add("--jobs", type=int, default=1, help="processes at a time (1)")
    add("--timeout", type=float, default=timeout, metavar="S", help=f"limit of each model ({timeout:g} s)")
    return parser


def chosen(arguments: argparse.Namespace, hint: str = "") -> list[str]:
    """Names of the models that were asked for, once each, in order; without any, torchvision's classification.

    Args:
        arguments: With ``models``, ``family`` and ``only``, as :func:`parser_of` reads them.
        hint: What the error says after the pattern that matches none.

    Raises:
        SystemExit: If a name isn't known, or no name matches.
    """
    for name in arguments.models:
        _models.refuse_unknown(name)
    families = arguments.family or ([] if arguments.models else ["classification"])
    names = [*arguments.models, *(name for family in families for name in _models.names_of(family))]
    names = [name for name in dict.fromkeys(names) if fnmatch.fnmatch(name, arguments.only)]
    if not names:
        raise SystemExit(f"no model matches {arguments.only!r}{hint}")
    return names
