"""Weights in safetensors, as any process can read them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

from lightning_channels import export_subnet, export_weights
from lightning_channels.errors import ConfigError, PrepareError
from tests.artifacts.nets import Small, images, prepared
from tests.zoo import Tokens


def test_a_state_dict_of_the_small_model(tmp_path: Path) -> None:
    model = Small()
    mutator = prepared(model, images(), "last")
    path = export_weights(model, tmp_path / "small.safetensors")
    given, expected = load_file(path), mutator.export().state_dict()
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in given)
    assert all(given[name].dtype == expected[name].dtype for name in given)
    same = export_weights(mutator.export(), tmp_path / "exported.safetensors")
    assert same.read_bytes() == path.read_bytes()
    full = {unit.name: unit.num_channels for unit in mutator.mutable_units}
    assert load_file(export_weights(model, path, full))["stem.weight"].shape == (8, 3, 3, 3)


def test_the_file_can_be_read_by_whom_other_files_can(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    model = Small()
    prepared(model, images(), "last")
    path = export_weights(model, tmp_path / "small.safetensors")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_tied_tensors_are_as_safetensors_writes_them(tmp_path: Path) -> None:
    model = Tokens()
    prepared(model, torch.arange(12).reshape(2, 6))
    path = export_weights(model, tmp_path / "tied.safetensors")
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "head.weight": "embed.weight"}
    small = export_subnet(model)
    expected = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    for tensor in small.state_dict().values():
        tensor.zero_()
    load_model(small, path)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in small.state_dict().items())


class Views(nn.Module):
    """Buffers that share memory and aren't the same, that are strided, empty, or part of something larger."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(12.0)
        self.register_buffer("whole", whole)
        self.register_buffer("turned", whole.view(3, 4).t())
        self.register_buffer("part", whole[3:5])
        self.register_buffer("of_other", torch.arange(1000)[:2])
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("also_empty", torch.empty(0, 3))
        self.register_buffer("flags", torch.tensor([True, False]))


def test_views_are_written_as_what_they_show(tmp_path: Path) -> None:
    model = Views()
    path = export_weights(model, tmp_path / "views.safetensors")
    given = load_file(path)
    assert given.keys() == model.state_dict().keys()
    assert all(torch.equal(given[name], tensor) for name, tensor in model.state_dict().items())
    assert path.stat().st_size < 1500


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def odd(tensor: Tensor) -> nn.Module:
    model = nn.Module()
    model.register_buffer("odd", tensor)
    return model


def test_what_is_refused(tmp_path: Path) -> None:
    path, folder = tmp_path / "weights.safetensors", tmp_path / "folder.safetensors"
    folder.mkdir()
    model = Small()
    prepared(model, images())
    for given, message in (
        (Extra(2, 2), "'_extra_state', a dict; safetensors holds tensors alone"),
        (nn.Linear(2, 2, device="meta"), "'weight' is a meta tensor"),
        (odd(torch.eye(3).to_sparse()), "'odd' is a sparse tensor"),
        (
            odd(torch.zeros(2, dtype=torch.complex128)),
            "'odd' is a complex128 tensor; weights are written dense, in one of",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            export_weights(given, path)
    with pytest.raises(ConfigError, match=r"writes a \.safetensors file, got the path 'weights\.pt'"):
        export_weights(model, "weights.pt")
    with pytest.raises(ConfigError, match="it is a folder"):
        export_weights(model, folder)
    with pytest.raises(PrepareError, match="got choices for a Small that is not prepared"):
        export_weights(export_subnet(model), path, {"stem_(0, 8)_8": 2})
    with pytest.raises(ConfigError, match="export_weights takes a model, got the class Small"):
        export_weights(Small, path)  # type: ignore[arg-type]
    assert not path.exists()


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ConfigError, match=r"need safetensors; pip install 'lightning-channels\[export\]'"):
        export_weights(Small(), tmp_path / "weights.safetensors")
