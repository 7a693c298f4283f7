"""The wheel in an empty environment, used from another directory: what a user gets from the package index."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, so that what the sdist lacks the wheel lacks too."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bin folder of an environment that holds the wheel and what it depends on; removed afterwards."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(environment, with_pip=True)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    try:
        run(
            scripts / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            wheel,
            cwd=wheel.parent,
        )
        yield scripts
    finally:
        shutil.rmtree(environment)


def test_the_wheel_holds_the_package_with_conf_and_examples_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = "lightning_channels"
    assert {name.split("/")[0] for name in names} == {package, f"{package}-0.1.0.dist-info"}
    shipped = {name for name in names if not name.endswith((".py", ".yaml", ".ipynb"))}
    assets = {p.relative_to(ROOT).as_posix() for p in (ROOT / package / "reporting" / "assets").iterdir()}
    assert assets
    assert {name for name in shipped if name.startswith(f"{package}/")} == {f"{package}/py.typed", *assets}
    for folder in ("conf", "examples"):
        endings = (".py", ".yaml", ".ipynb")
        sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*") if p.suffix in endings}
        assert {f"{package}/{source}" for source in sources} == {
            n for n in names if n.startswith(f"{package}/{folder}/")
        }
    assert f"{package}-0.1.0.dist-info/licenses/LICENSE" in names


def test_an_empty_environment_gets_all_that_is_needed(installed: Path, tmp_path: Path) -> None:
    # one test, so that two workers never install twice
    check_command_line(installed, tmp_path)
    check_configs(installed, tmp_path)
    check_searchpath_of_an_app(installed, tmp_path)


def check_command_line(installed: Path, tmp_path: Path) -> None:
    program = installed / "lightning-channels"
    choices = json.loads(run(program, "units", "torchvision.models.resnet18", "--choice", cwd=tmp_path))
    assert len(choices) == 12
    assert next(iter(choices)) == "conv1_(0, 64)_64"
    template = json.loads(run(program, "units", "model/digits_resnet", "unit=one_shot", cwd=tmp_path))
    assert template["channel_unit_cfg"]["type"] == "OneShotMutableChannelUnit"
    assert run(program, "--version", cwd=tmp_path) == "0.1.0\n"
    run(installed / "python", "-m", "pip", "check", cwd=tmp_path)


def check_configs(installed: Path, tmp_path: Path) -> None:
    code = (
        "from hydra import compose, initialize_config_dir\n"
        "import lightning_channels as lc, pathlib\n"
        "package = pathlib.Path(lc.__file__).parent\n"
        "assert lc.config_dir() == package / 'conf', lc.config_dir()\n"
        "with initialize_config_dir(version_base='1.3', config_dir=str(lc.config_dir())):\n"
        "    print(compose('train', ['unit=one_shot']).unit.type)\n"
    )
    assert run(installed / "python", "-c", code, cwd=tmp_path) == "OneShotMutableChannelUnit\n"


def check_searchpath_of_an_app(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "app.yaml").write_text(
        "defaults: [{unit: one_shot}, {tracer: forward}, {mutator: channel}, {sampler: random}, "
        "{callback: channel_pruning}, _self_]\n"
        "seed: 7\nhydra: {searchpath: ['pkg://lightning_channels.conf']}\n"
    )
    (tmp_path / "app.py").write_text(
        "import hydra\n"
        "@hydra.main(version_base='1.3', config_path='conf', config_name='app')\n"
        "def main(config):\n"
        "    callback = hydra.utils.instantiate(config.callback)\n"
        "    print(type(callback).__name__, callback.seed)\n"
        "main()\n"
    )
    command = [installed / "python", "app.py", "unit.candidate_choices=[0.5,1.0]", "callback.module=null"]
    assert run(*command, cwd=tmp_path) == "ChannelPruning 7\n"
