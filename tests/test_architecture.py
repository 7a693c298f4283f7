"""The layers import upwards only, and importing the package costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_channels

PACKAGE = Path(lightning_channels.__file__).parent
LAYERS = [
    ("errors",),
    ("_compiling", "_files", "_hooks", "_modules", "_packed", "_parsing", "_patterns", "_progress", "_rng"),
    ("_plain",),
    ("divisors", "eval_caches"),
    ("registry",),
    ("mutables",),
    ("dynamic_ops",),
    ("tracing",),
    ("units",),
    ("mutators",),
    ("resources", "criteria", "export", "inactive", "recalibration", "samplers", "distillation"),
    ("artifacts", "pruning"),
    ("search",),
    ("reporting",),
    ("_config",),
    ("callbacks",),
    ("cli",),
    ("__main__",),
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
SOURCES = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in ("conf", "examples")]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether inside a function) of each import that runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    local = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in local
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in local


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module, local in imports(path):
        top, _, rest = module.partition(".")
        if top == "lightning_channels" and rest:
            target = rest.split(".")[0]
            # a registry's look-up and the mutator's export() reach down, at run time and on purpose
            assert LAYER[target] <= LAYER[own] or (local and own in ("registry", "mutators", "_plain")), module
        if top in ("lightning", "pytorch_lightning"):
            assert own == "callbacks", module
        if top == "hydra":
            assert own == "cli", module


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import lightning_channels", ("torch", "lightning", "hydra", "omegaconf", "yaml")),
        ("from lightning_channels import ChannelMutator, export_subnet", ("lightning", "hydra", "torchvision")),
        ("from lightning_channels import SAMPLERS; SAMPLERS.names()", ("lightning", "hydra", "torchvision")),
        ("from lightning_channels import ChannelPruning", ("hydra",)),
    ],
)
def test_imports_are_light(statement: str, absent: tuple[str, ...]) -> None:
    code = f"import sys; {statement}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_export_is_there() -> None:
    for name in lightning_channels.__all__:
        assert getattr(lightning_channels, name) is not None
    assert set(lightning_channels.__all__) <= set(dir(lightning_channels))
    with pytest.raises(AttributeError, match="no attribute 'ChanelPruning'"):
        _ = lightning_channels.ChanelPruning


def test_registries_load_what_they_name() -> None:
    code = (
        "from lightning_channels import UNITS, MUTATORS, TRACERS, SAMPLERS;"
        "print(UNITS.names(), MUTATORS.names(), TRACERS.names(), SAMPLERS.names())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in (
        "SequentialMutableChannelUnit",
        "OneShotMutableChannelUnit",
        "ChannelMutator",
        "ForwardTracer",
        "random",
    ):
        assert name in done.stdout
