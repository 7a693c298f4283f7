"""Hostile subnet files: each is refused with the package's own error, and the model stays as it was."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_channels import ChannelMutator, load_subnet, save_subnet
from lightning_channels._plain import read_file
from lightning_channels.errors import ConfigError, StructureError
from tests.files.hostile import TEXTS, dumped, edited, planted
from tests.files.hostile_subnets import OF_NUMBERS, OF_SUBNETS
from tests.files.nets import HEADS, STEM, Net, facts, inputs, net, structure


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subnet that keeps other than the first channels, in a folder of its own."""
    model = net()
    mutator = ChannelMutator.from_structure(structure())
    mutator.prepare_from_supernet(model)
    mutator.set_choices({STEM: [1, 2, 5, 6], HEADS: 2})
    return save_subnet(model, tmp_path_factory.mktemp("good"), metrics={"val_acc": 0.5})


def test_the_good_one_loads(good: Path, untouched: Net) -> None:
    small = load_subnet(untouched, good)
    assert (type(small), small.stem.out_channels, small.mix.heads) == (Net, 4, 2)  # type: ignore[union-attr]
    assert small(inputs()).shape == (2, 5)


@pytest.mark.parametrize("name", OF_SUBNETS)
@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_subnets(name: str, ending: str, good: Path, untouched: Net, tmp_path: Path) -> None:
    edit = OF_SUBNETS[name]
    data = edited(read_file(good), edit)
    path = tmp_path / f"subnet.{ending}"
    path.write_text(dumped(data, ending))
    (tmp_path / "subnet.safetensors").write_bytes(good.with_suffix(".safetensors").read_bytes())
    with pytest.raises(edit.error) as caught:
        load_subnet(untouched, path)
    assert type(caught.value) is edit.error
    assert edit.message.format(supernet=read_file(good)["supernet"][:12]) in str(caught.value)
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_numbers(name: str, good: Path, untouched: Net, tmp_path: Path) -> None:
    value, message = OF_NUMBERS[name]
    path = tmp_path / "subnet.yaml"
    path.write_text(good.read_text().replace("val_acc: 0.5", f"val_acc: {value}"))
    with pytest.raises(ConfigError) as caught:
        load_subnet(untouched, path)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", [name for name in TEXTS if name not in ("a huge file", "wide JSON")])
def test_text_that_is_no_data(name: str, untouched: Net, tmp_path: Path) -> None:
    ending, content, message = TEXTS[name]
    path, sentinel = tmp_path / f"subnet.{ending}", tmp_path / "executed"
    path.write_bytes(planted(content, sentinel))
    with pytest.raises(ConfigError) as caught:
        load_subnet(untouched, path)
    assert message in str(caught.value)
    assert not sentinel.exists()


def test_another_model(good: Path) -> None:
    wider = Net()
    wider.stem = torch.nn.Conv2d(3, 12, 3, padding=1)
    before = facts(wider)
    with pytest.raises(StructureError, match="stem"):
        load_subnet(wider, good)
    assert facts(wider) == before


# --- weights ----------------------------------------------------------------------------------------------------------

Tensors = dict[str, Tensor]


def dropped(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != "head.bias"}


OF_WEIGHTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "a tensor less": (dropped, "'head.bias' is in the model but not in the file"),
    "a tensor more": (
        lambda t: {**t, "head.bia": torch.zeros(1)},
        "in the file but not in the model; did you mean 'head",
    ),
    "another shape": (
        lambda t: {**t, "stem.weight": torch.zeros(8, 3, 3, 3)},
        "'stem.weight' has the shape [8, 3, 3, 3] in the file and [4, 3, 3, 3] in the model",
    ),
    "as many values in another shape": (
        lambda t: {**t, "stem.weight": t["stem.weight"].flatten()},
        "'stem.weight' has the shape [108] in the file and [4, 3, 3, 3] in the model",
    ),
    "whole numbers": (
        lambda t: {**t, "head.bias": t["head.bias"].long()},
        "'head.bias' is I64 in the file and float32 in",
    ),
    "8-bit floats": (
        lambda t: {**t, "head.bias": t["head.bias"].to(torch.float8_e4m3fn)},
        "'head.bias' is F8_E4M3 in the file and float32 in the model",
    ),
    "a counter that is a float": (
        lambda t: {**t, "norm.num_batches_tracked": torch.tensor(1.0)},
        "'norm.num_batches_tracked' is F32 in the file and int64 in the model",
    ),
    "other names": (lambda t: {f"x.{name}": tensor for name, tensor in t.items()}, " and others. Take"),
}


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_weights(name: str, good: Path, untouched: Net, tmp_path: Path) -> None:
    change, message = OF_WEIGHTS[name]
    path = tmp_path / "weights.safetensors"
    save_file(change(load_file(good.with_suffix(".safetensors"))), path)
    with pytest.raises(StructureError) as caught:
        load_subnet(untouched, good, path)
    assert message in str(caught.value)
    assert "weights.safetensors don't fit the model" in str(caught.value)


def header(text: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + data


def huge(size: int) -> str:
    return json.dumps({"stem.weight": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}})


BYTES: dict[str, bytes] = {
    "nothing": b"",
    "a pickle": b"\x80\x04cposix\nsystem\n",
    "a huge header": struct.pack("<Q", 2**62) + b"{}",
    "half a header": header('{"a": {"dtype": "F32", "sha'),
    "a header that is a list": header("[1]"),
    "a billion values": header(huge(10**9), b"\0" * 16),
    "offsets that overlap": header(
        '{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, '
        '"b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]}}',
        b"\0" * 6,
    ),
    "a negative offset": header('{"a": {"dtype": "U8", "shape": [4], "data_offsets": [-4, 0]}}', b"\0" * 4),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes(name: str, good: Path, untouched: Net, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(BYTES[name])
    with pytest.raises(StructureError, match=r"weights\.safetensors is no whole safetensors file"):
        load_subnet(untouched, good, path)


@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
def test_weights_that_were_cut_off(part: float, good: Path, untouched: Net, tmp_path: Path) -> None:
    whole = good.with_suffix(".safetensors").read_bytes()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(StructureError, match=r"weights\.safetensors is no whole safetensors file"):
        load_subnet(untouched, good, path)


def test_weights_of_another_subnet(good: Path, untouched: Net, tmp_path: Path) -> None:
    """The same widths of other channels: shapes can't tell them apart."""
    other = net()
    mutator = ChannelMutator.from_structure(structure())
    mutator.prepare_from_supernet(other)
    mutator.set_choices({STEM: [0, 3, 4, 7], HEADS: 2})
    weights = save_subnet(other, tmp_path).with_suffix(".safetensors")
    with pytest.raises(StructureError, match="holds the weights of another subnet"):
        load_subnet(untouched, good, weights)


@pytest.mark.parametrize(("make", "message"), [(Path.mkdir, "no regular file"), (lambda _: None, "no such file")])
def test_weights_that_are_no_file(
    make: Callable[[Path], Any], message: str, good: Path, untouched: Net, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    make(path)
    with pytest.raises(ConfigError, match=rf"cannot read .*weights\.safetensors: .*{message}"):
        load_subnet(untouched, good, path)
