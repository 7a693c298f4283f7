"""The Trainer of ``pytorch_lightning``, which has the code of ``lightning.pytorch`` and other classes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import lightning
import pytest

from lightning_channels.callbacks._packages import is_lightnings

ROOT = Path(__file__).parents[2]


def other_package(folder: Path) -> str:
    """Where to import ``pytorch_lightning`` from: an installed one, or one made as Lightning itself makes it."""
    if importlib.util.find_spec("pytorch_lightning") is not None:
        return ""
    own = Path(lightning.__file__).parent
    for part, name in (("pytorch", "pytorch_lightning"), ("fabric", "lightning_fabric")):
        for file in (own / part).rglob("*"):
            if file.suffix not in (".pyc", "") or file.name == "version.info":
                text = file.read_text()
                for old, new in (("lightning.pytorch", "pytorch_lightning"), ("lightning.fabric", "lightning_fabric")):
                    text = text.replace(f"{old}.", f"{new}.").replace(f"import {old} ", f"import {new} ")
                    text = text.replace(f"from {old} ", f"from {new} ").replace(f'"{old}"', f'"{new}"')
                    text = text.replace(f"import {old}\n", f"import {new}\n")
                target = folder / name / file.relative_to(own / part)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
    return str(folder)


def test_its_trainer_does_all_of_it(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), other_package(tmp_path / "packages")]))
    command = [sys.executable, "-m", "tests.robust.with_pytorch_lightning", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["plain"] == found["widest"] == found["late"]
    assert {"val_loss", "val_loss/min", "channels/flops"} <= set(found["metrics"])
    assert found["files"] == ["last.ckpt", "last.structure.yaml"]
    assert found["whole"] == found["resumed"]
    assert found["left"] == []


@pytest.mark.parametrize(
    "package", ["lightning.pytorch.strategies", "pytorch_lightning.strategies.fsdp", "mine.lightning"]
)
def test_classes_are_told_by_package_and_name(package: str) -> None:
    base = type("FSDPStrategy", (), {"__module__": package})
    assert is_lightnings(type("Own", (base,), {})(), "FSDPStrategy") == (package != "mine.lightning")
    assert not is_lightnings(base(), "DDPStrategy")
