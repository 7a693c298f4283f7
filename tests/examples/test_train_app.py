"""examples/train.py as a program: Hydra's own options, overrides, and other data and models."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.examples.app import TINY, run_example

SHORT = [*TINY, "report.widths=[0.5,1.0]"]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_example("train.py", *arguments, cwd=cwd)


def test_cfg_job_prints_the_composed_config(tmp_path: Path) -> None:
    done = run("unit=one_shot", "unit.candidate_choices=[0.5,1.0]", "data.batch_size=32", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert config["unit"]["candidate_choices"] == [0.5, 1.0]
    assert config["data"]["batch_size"] == 32
    assert list(tmp_path.iterdir()) == []


def test_overrides_reach_the_training(tmp_path: Path) -> None:
    overrides = ["unit=one_shot", "unit.candidate_choices=[0.25,0.5,0.75,1.0]", "data.batch_size=32"]
    done = run(*SHORT, *overrides, "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    structure = yaml.safe_load((tmp_path / "out" / "slimmable.structure.yaml").read_text())
    unit_config = structure["template"]["channel_unit_cfg"]
    assert unit_config["type"] == "OneShotMutableChannelUnit"
    assert unit_config["default_args"]["candidate_choices"] == [0.25, 0.5, 0.75, 1.0]
    assert [row["width"] for row in json.loads((tmp_path / "out" / "results.json").read_text())["rows"]] == [0.5, 1.0]
    assert "results.json" in done.stdout


def test_slimmable_subnets_are_measured_whatever_the_widths(tmp_path: Path) -> None:
    overrides = [
        "unit=slimmable",
        "mutator=slimmable",
        "unit.candidate_choices=[0.25,0.75]",
        "report.recalibrate=false",
    ]
    done = run(*SHORT, *overrides, "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    structure = yaml.safe_load((tmp_path / "out" / "slimmable.structure.yaml").read_text())
    assert structure["template"]["type"] == "SlimmableChannelMutator"
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["width"] for row in rows] == [0.25, 0.75]
    assert (tmp_path / "out" / "width_0.25.pt").exists()


def test_it_ends_with_commands_that_work_on_its_folder(tmp_path: Path) -> None:
    tiny = ["model.widths=[8,8,8]", "report.widths=[1.0]", "data.batch_size=256", "hydra.run.dir='my run'"]
    done = run(*TINY, *tiny, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said, *lines = done.stdout.partition("\nnext, ")[2].splitlines()
    assert said.endswith(":")
    commands = [line.partition("lightning-channels ")[2] or line.partition("lightning_channels ")[2] for line in lines]
    assert [command.split()[0] for command in commands] == ["search", "report"]
    for command in commands:
        words = [sys.executable, "-m", "lightning_channels", *shlex.split(command)]
        assert str(tmp_path / "my run") in words
        found = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
    assert (tmp_path / "my run" / "search.json").is_file()
    assert (tmp_path / "my run" / "report.html").is_file()


@pytest.mark.slow
def test_multirun_trains_each_job(tmp_path: Path) -> None:
    done = run("--multirun", *SHORT, "sampler=max,sandwich", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for job, sampler in (("0", "max"), ("1", "sandwich")):
        folder = tmp_path / "sweep" / job
        assert len(json.loads((folder / "results.json").read_text())["rows"]) == 2
        assert (folder / "slimmable.structure.yaml").exists()
        assert yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())["sampler"]["type"] == sampler


def test_an_unknown_override_gives_hydras_own_error(tmp_path: Path) -> None:
    done = run("trainer.max_epoch=3", cwd=tmp_path)
    assert done.returncode == 1
    assert "Could not override 'trainer.max_epoch'" in done.stderr
    done = run("unit=slim", cwd=tmp_path)
    assert "Could not find 'unit/slim'" in done.stderr
    assert "one_shot" in done.stderr
