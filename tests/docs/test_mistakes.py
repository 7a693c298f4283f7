"""The tables of mistakes: each row is made, and gets exactly the message that stands beside it."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from reader import readers_names

from lightning_channels.cli import main
from lightning_channels.errors import ChannelsError
from tests.docs.test_pages import DOCS, Block, blocks, run_python

PAGE = "howto/mistakes.md"
_ROW = re.compile(r"^\| `(?P<code>[^`]+)` \| `(?P<message>[^`]+)` \|$", re.MULTILINE)


class Mistake(NamedTuple):
    """A row: a line of Python or a command, what is said, and where."""

    code: str
    message: str
    line: int


def mistakes() -> list[Mistake]:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    return [
        Mistake(*(cell.replace(r"\|", "|") for cell in row.groups()), text[: row.start()].count("\n") + 1)
        for row in _ROW.finditer(text)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mistakes")


@pytest.fixture(scope="module")
def names(folder: Path) -> Iterator[dict[str, Any]]:
    """What the page's blocks, which stand above the tables that need them, have made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)
        torch.manual_seed(0)
        found: dict[str, Any] = {"__name__": "__main__", **readers_names(8)}
        for block in blocks(PAGE):
            run_python(block, found)
        yield found


def run_command(code: str) -> str:
    """What a command says on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            exit_code: Any = main(code.split()[1:])
        except SystemExit as stop:
            exit_code = stop.code
    assert exit_code == 2
    assert out.getvalue() == ""
    return err.getvalue().removesuffix("\n")


def run_row(mistake: Mistake, names: dict[str, Any]) -> str:
    """What an error says; it is the package's, or Lightning's for a wrong configuration."""
    with pytest.raises((ChannelsError, MisconfigurationException)) as caught:
        run_python(Block("python", mistake.line, mistake.code), dict(names))
    assert isinstance(caught.value, ChannelsError) or "ChannelPruning" in mistake.code
    return str(caught.value)


@pytest.mark.parametrize("mistake", mistakes(), ids=lambda mistake: mistake.code)
def test_a_mistake_gets_its_message(
    mistake: Mistake, names: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        is_command = mistake.code.startswith("lightning-channels ")
        said = run_command(mistake.code) if is_command else run_row(mistake, names)
    assert said == mistake.message, f"{PAGE}:{mistake.line}"


def test_the_tables_are_whole() -> None:
    """No row has a form that isn't looked at, none is there twice, and each kind has some."""
    sections = re.split(r"^## ", (DOCS / PAGE).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    counts = [len(_ROW.findall(section)) for section in sections]
    assert min(counts) >= 5
    assert len(sections) >= 5
    rows = [line for section in sections for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) == len(set(rows)) == sum(counts) >= 30
