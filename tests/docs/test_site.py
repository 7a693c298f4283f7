"""The documentation site builds without a warning, has every page and name, and shows what the tracer finds today."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import pytest

import lightning_channels

needs_sphinx = pytest.mark.skipif(
    find_spec("sphinx") is None and not os.environ.get("CI"),
    reason="needs the extra docs, which the extra dev (make test, and so CI) installs",
)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def run(*command: object) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    arguments = [str(part) for part in command]
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


def build(source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """As ``make docs`` does it."""
    return run("-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", DOCS, source, output)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site")
    done = build(DOCS, output)
    assert done.returncode == 0, done.stderr
    return output


@needs_sphinx
@pytest.mark.slow
def test_every_page_is_in_it(site: Path) -> None:
    pages = [path.relative_to(DOCS).with_suffix(".html") for end in ("md", "rst") for path in DOCS.rglob(f"*.{end}")]
    assert len(pages) > 20
    for page in pages:
        assert (site / page).is_file(), page
    front = (site / "index.html").read_text(encoding="utf-8")
    assert "images/unit.svg" in front.replace("_images", "images")


@needs_sphinx
@pytest.mark.slow
def test_every_public_name_is_documented(site: Path) -> None:
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    documented = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    names = {f"lightning_channels.{name}" for name in lightning_channels.__all__ if name != "__version__"}
    assert names - documented == set()
    assert "lightning_channels.tracing.register_rule" in documented


@needs_sphinx
def test_a_reference_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "index.md").write_text("# Page\n\n{func}`~lightning_channels.export_subnets` and [that](nowhere.md).\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert "lightning_channels.export_subnets" in done.stderr
    assert "nowhere.md" in done.stderr


def test_the_pictures_are_those_of_today(tmp_path: Path) -> None:
    done = run(DOCS / "draw.py", tmp_path)
    assert done.returncode == 0, done.stderr
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == sorted(path.name for path in (DOCS / "images").iterdir())
    for name in drawn:
        same = (tmp_path / name).read_text() == (DOCS / "images" / name).read_text()
        assert same, f"{name} shows what the tracer found earlier; run python docs/draw.py"
