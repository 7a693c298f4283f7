import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lightning_channels.cli import main
from tests.examples.app import TINY, run_example


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of examples/train.py: eight channels everywhere, two steps, random widths."""
    folder = tmp_path_factory.mktemp("runs")
    settings = ["model.widths=[8,8,8]", "report.widths=[1.0]", "report.recalibrate=false", "hydra.run.dir=run"]
    done = run_example("train.py", *TINY, *settings, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config of a user's own module and data, in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    config = {"module": {"_target_": "tests.cli.mine.Mine"}, "datamodule": {"_target_": "tests.cli.mine.Data"}}
    path.write_text(yaml.safe_dump({**config, "trainer": {"accelerator": "cpu"}}))
    return path
