"""Every format computes what the prepared model does, in one process that can't import this package."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import VisionTransformer

from benchmarks._export import lay_out, reloaded
from lightning_channels import export_weights
from tests.artifacts.nets import images, prepared
from tests.zoo import ZOO, Toy, randomise

FILES = ("model.pt2", "model.onnx", "weights.safetensors")


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]


def torchvisions(name: str, **kwargs: Any) -> Case:
    return Case(partial(torchvision.models.get_model, name, weights=None, **kwargs), partial(images, 2, 32))


def of_zoo(name: str) -> Case:
    (entry,) = (entry for entry in ZOO if entry.name == name)
    return Case(entry.build, entry.inputs)


CASES: dict[str, Case] = {
    **{name: of_zoo(name) for name in ("everything", "tokens")},
    "resnet18": torchvisions("resnet18"),
    "mobilenet_v2": torchvisions("mobilenet_v2", inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]]),
    "vit": Case(
        lambda: VisionTransformer(image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32),
        lambda: images(2, 16),
    ),
}


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of all cases, at the last half of each unit's channels."""
    folder = tmp_path_factory.mktemp("formats")
    for name, case in CASES.items():
        model, inputs = randomise(case.make().eval()), case.inputs()
        prepared(model, inputs, "last")
        written = lay_out(model, inputs, folder / name)
        assert all("reason" not in row for row in written.values()), written
    lay_out_wrong(folder)
    return reloaded(folder)


def lay_out_wrong(folder: Path) -> None:
    """Weights of another model, and weights of another module."""
    for name, module in (("other weights", None), ("other module", nn.Linear(1, 1))):
        (folder / name).mkdir()
        model, x = randomise(Toy().eval()), images(2, 32)
        torch.save([((x,), [model(x).detach()])], folder / name / "data.pt")
        export_weights(randomise(Toy(), 1), folder / name / "weights.safetensors")
        torch.save(model if module is None else module, folder / name / "empty.pt")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("file", FILES)
def test_it_computes_the_same(file: str, name: str, differences: dict[str, dict[str, Any]]) -> None:
    assert differences[name][file] <= 1e-4


def test_a_wrong_file_shows(differences: dict[str, dict[str, Any]]) -> None:
    assert differences["other weights"]["weights.safetensors"] > 1e-2
    assert str(differences["other module"]["weights.safetensors"]).startswith("RuntimeError: Error(s) in loading")
