"""What the documentation shows: its Python runs and prints what stands there, its commands are ones that work."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from reader import readers_names

from lightning_channels import ChannelPruning, config_dir
from lightning_channels.cli import main
from lightning_channels.registry import (
    CRITERIA,
    LOSS_CALCULATORS,
    MUTATORS,
    SAMPLERS,
    SCHEDULES,
    SEARCHES,
    TRACERS,
    UNITS,
)
from lightning_channels.tracing.rules import OWN_RULES, RULES
from tests.examples.app import TINY, run_example

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
LANGUAGES = {"python", "text", "console", "yaml"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``output`` is the ``text`` block that follows it."""

    language: str
    line: int
    code: str
    output: str | None = None


def blocks(page: str) -> list[Block]:
    text = (DOCS / page).read_text(encoding="utf-8")
    found: list[Block] = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        language, code = match.groups()
        line = text[: match.start(2)].count("\n") + 1
        if language == "text":
            assert found, f"{page}:{line} is the output of nothing"
            last = found[-1]
            assert last.output is None, f"{page}:{line} is a second output"
            found[-1] = Block(last.language, last.line, last.code, code)
        else:
            found.append(Block(language, line, code))
    return found


def runs_at_import(page: str) -> bool:
    return any(block.language in ("python", "console") for block in blocks(page))


@pytest.fixture
def registered() -> Iterator[None]:
    """What a page registers is gone after it."""
    registries = (UNITS, MUTATORS, TRACERS, SAMPLERS, CRITERIA, SCHEDULES, SEARCHES, LOSS_CALCULATORS)
    tables: list[Any] = [RULES, OWN_RULES]
    for registry in registries:
        registry.names()  # loads its own classes
        tables.append(registry._classes)
    before = [table.copy() for table in tables]
    yield
    for table, known in zip(tables, before, strict=True):
        table.clear()
        table.update(known)


def test_an_output_is_compared() -> None:
    assert says("a  \nb\nc\n", "a\n…\nc")
    assert says("1 of 2\n(14 runs, 0.3 s)\n", "1 of 2\n(16 runs, 0.1 s)\n")
    assert not says("a\nb\nd\n", "a\n…\nc")
    assert not says("a\nb\n", "a\n")


def test_the_pages_are_there() -> None:
    assert {"index.md", "quickstart.md", "concepts.md", "coming_from.md"} <= set(PAGES)
    assert len([page for page in PAGES if page.startswith("howto/")]) >= 9
    assert all({block.language for block in blocks(page)} <= LANGUAGES for page in PAGES)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("page", [page for page in PAGES if runs_at_import(page)])
def test_a_page_does_what_it_says(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    torch.manual_seed(0)
    names = {"__name__": "__main__", **readers_names(16)}
    for block in blocks(page):
        where = f"{page}:{block.line}"
        if block.language == "python":
            printed = run_python(block, names)
        elif block.language == "console":
            printed = "".join(run_command(command, where) for command in block.code.splitlines())
        else:
            printed = compose_app(block.code, tmp_path)
        if block.output is not None and not runs_an_example(block):
            assert says(printed, block.output), f"{where} prints\n{printed}"


def run_python(block: Block, names: dict[str, Any]) -> str:
    code = compile(block.code, "model.py", "exec")  # reports name this file, and a line of the block
    out = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # Lightning's, about tiny trainings
        try:
            exec(code, names)
        except BaseException as error:
            error.add_note(f"in the block that begins at line {block.line} of the page")
            raise
    return out.getvalue()


def runs_an_example(block: Block) -> bool:
    """Whether it is a training of the zoo's, which tests/examples/test_zoo.py runs, and compares with the page."""
    return block.language == "console" and block.code.startswith("python examples/zoo/")


def run_command(command: str, where: str) -> str:
    """Run our own program; of the others see that there is what they name."""
    program, *rest = shlex.split(command)
    if program == "lightning-channels":
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            assert main(rest) == 0, where
        return out.getvalue()
    if program == "python":
        script, *arguments = rest
        assert (ROOT / script).is_file(), where
        check_overrides(Path(script), arguments)
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), where
    else:
        assert command == "pip install .", where
    return ""


def check_overrides(script: Path, arguments: list[str]) -> None:
    """They compose on the script's config, else on that of train.py; a sweep's first job does."""
    project = ROOT / script.parents[1] / "configs"
    configs = project if project.is_dir() else config_dir()
    primary = script.stem if (configs / f"{script.stem}.yaml").is_file() else "train"
    overrides = [item for item in arguments if "=" in item and not item.startswith("--")]
    first = [item.split(",")[0] if "," in item and "[" not in item else item for item in overrides]
    own = [f"hydra.searchpath=[file://{ROOT / item}]" for item in arguments if (ROOT / item).is_dir()]
    with initialize_config_dir(version_base="1.3", config_dir=str(configs)):
        compose(primary, [*own, *first])


def compose_app(config: str, folder: Path) -> str:
    """Compose a config that is shown, with our groups where a checkout has them, and build its callback.

    One that begins with a file's name alone is that file, for the commands below it.
    """
    named = re.match(r"# ([\w.]+\.yaml)\n", config)
    if named is not None:
        (folder / named[1]).write_text(config)
        return ""
    (folder / "app.yaml").write_text(config.replace("pkg://lightning_channels.conf", f"file://{config_dir()}"))
    with initialize_config_dir(version_base="1.3", config_dir=str(folder)):
        callback = instantiate(compose("app").callback)
    assert isinstance(callback, ChannelPruning)
    return ""


def says(printed: str, expected: str) -> bool:
    """Whether that was printed; an ellipsis stands for anything."""
    parts = shown(expected).split("…")
    return re.fullmatch(".*".join(map(re.escape, parts)), shown(printed), re.DOTALL) is not None


def shown(text: str) -> str:
    """The text, without what differs from run to run: what the proof took."""
    text = re.sub(r"\(\d+ runs, [\d.]+ s\)", "(some runs)", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def test_the_commands_of_the_readme_are_ones_that_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a run of examples/train.py, which some of them read
    settings = ["model.widths=[8,8,8]", "report.widths=[1.0]", "hydra.run.dir=outputs/2026-01-31/12-00-00"]
    trained = run_example("train.py", *TINY, *settings, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = "".join(re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)).splitlines()
    assert len(commands) >= 7
    for command in commands:
        run_command(command, "README.md")


def test_what_is_named_in_the_text_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert set(re.findall(r"`make (\w+)", text)) <= targets, page
        for path in re.findall(r"`((?:examples|conf|docs|benchmarks)/[\w./-]*)`", text):
            assert (ROOT / path).exists(), f"{page}: {path}"
