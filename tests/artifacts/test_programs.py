"""Programs and ONNX files: any batch, keyword arguments, checks, and errors that say where."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import lightning_channels.artifacts.onnx as onnx_module
import lightning_channels.artifacts.pt2 as pt2_module
from lightning_channels import export_onnx, export_pt2, export_subnet
from lightning_channels.errors import ChoiceError, ConfigError, ExportError, PrepareError
from tests.artifacts.nets import Branching, Different, Fixed, Keeping, Masked, Small, images, prepared

EXPORTS: dict[str, Callable[..., Path]] = {"pt2": export_pt2, "onnx": export_onnx}


@pytest.fixture(params=EXPORTS)
def ending(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(path: Path, *tensors: Tensor, **named: Tensor) -> list[Tensor]:
    """What a file gives."""
    if path.suffix == ".pt2":
        found = torch.export.load(path).module()(*tensors, **named)
        return list(found.values()) if isinstance(found, dict) else [found]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = dict(zip(names, tensors, strict=False)) | named
    return [torch.from_numpy(y) for y in session.run(None, {name: feed[name].numpy() for name in names})]


def names(path: Path) -> tuple[list[Any], list[Any]]:
    """Names and shapes of an ONNX file's inputs and outputs."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return tuple([(v.name, v.shape) for v in values] for values in (session.get_inputs(), session.get_outputs()))  # type: ignore[return-value]


def test_a_prepared_model_for_any_batch(ending: str, tmp_path: Path) -> None:
    model = Small()
    mutator = prepared(model, images(), "last")
    before, modes = mutator.structure(), [module.training for module in model.modules()]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    path = EXPORTS[ending](model, tmp_path / "new" / f"a.{ending}", images(1), verify=True)
    assert (mutator.structure(), [module.training for module in model.modules()]) == (before, modes)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert os.listdir(path.parent) == [f"a.{ending}"]
    model.eval()
    for batch in (1, 2, 7):
        x = images(batch)
        assert_close(run(path, x)[0], model(x), rtol=1e-4, atol=1e-5)
    content = path.read_bytes()
    assert b"lightning_channels" not in content
    assert os.fsencode(os.fspath(Path(__file__).parent)) not in content


def test_choices(ending: str, tmp_path: Path) -> None:
    model = Small()
    mutator = prepared(model, images())
    path = EXPORTS[ending](model, tmp_path / f"a.{ending}", images(), {"stem_(0, 8)_8": [1, 6]}, verify=False)
    assert mutator.kept_channels() == {}
    small = export_subnet(model, {"stem_(0, 8)_8": [1, 6]}).eval()
    assert_close(run(path, images(3))[0], small(images(3)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ChoiceError, match="no mutable unit is named 'x'"):
        EXPORTS[ending](model, path, images(), {"x": 1})
    with pytest.raises(PrepareError, match="got choices for a Small that is not prepared"):
        EXPORTS[ending](small, path, images(), {"x": 1})


def test_keyword_arguments_and_a_dict_of_outputs(ending: str, tmp_path: Path) -> None:
    model = Masked().eval()

    def inputs(batch: int) -> dict[str, Tensor]:
        return {"mask": torch.ones(batch, 4), "tokens": torch.randn(batch, 4, 6), "table": torch.randn(1, 4, 6)}

    prepared(model, inputs(2))
    path = EXPORTS[ending](model, tmp_path / f"a.{ending}", inputs(1) | {"table": torch.randn(4, 6)})
    given = inputs(5) | {"table": torch.randn(4, 6)}
    found, expected = run(path, **given), model(**given)
    assert_close(found, list(expected.values()), rtol=1e-4, atol=1e-5)


def test_names_and_opset(tmp_path: Path) -> None:
    path = export_onnx(
        Small().eval(), tmp_path / "a.onnx", images(), opset=20, input_names=["image"], output_names=["logits"]
    )
    assert names(path) == ([("image", ["batch", 3, 8, 8])], [("logits", ["batch", 4])])
    assert onnx.load(path).opset_import[0].version == 20
    onnx.checker.check_model(path, full_check=True)


def test_a_static_batch_on_request(ending: str, tmp_path: Path) -> None:
    model = Small(Fixed())
    mutator = prepared(model, images(), "last")
    path = tmp_path / f"a.{ending}"
    with pytest.raises(ExportError, match=f"export_{ending}: Small can't be exported.*pass dynamic_batch=False"):
        EXPORTS[ending](model, path, images())
    assert not os.listdir(tmp_path)
    EXPORTS[ending](model, path, images(), dynamic_batch=False)
    assert_close(run(path, images())[0], mutator.export().eval()(images()), rtol=1e-4, atol=1e-5)


def test_a_static_batch_of_one(tmp_path: Path) -> None:
    path = export_pt2(Small(), tmp_path / "a.pt2", images(1), dynamic_batch=False)  # isn't repeated
    assert run(path, images(1))[0].shape == (1, 4)
    with pytest.raises(RuntimeError, match="to be equal to 1, but got 2"):
        run(path, images(2))


def test_other_dims_may_be_free(ending: str, tmp_path: Path) -> None:
    model = Small().eval()
    size = torch.export.Dim("size", min=4, max=64)
    path = EXPORTS[ending](model, tmp_path / f"a.{ending}", images(), dynamic_shapes=({2: size},))
    x = torch.randn(2, 3, 20, 8)
    assert_close(run(path, x)[0], model(x), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_captured_is_named(ending: str, tmp_path: Path) -> None:
    model = Small(nn.Sequential(nn.ReLU(), Branching()))
    with pytest.raises(ExportError) as caught:
        EXPORTS[ending](model, tmp_path / f"a.{ending}", images())
    assert f"export_{ending}: Small can't be exported at 'after.1', a Branching: " in str(caught.value)
    assert "depends on the values of tensors" in str(caught.value)
    assert not os.listdir(tmp_path)
    assert torch.backends.mha.get_fastpath_enabled()


def test_another_result_is_no_file(ending: str, tmp_path: Path) -> None:
    model = Small(Different())
    old = tmp_path / f"a.{ending}"
    old.write_text("old")
    with pytest.raises(ExportError, match=r"output 0 of .*differs from the model's by .* of its largest value"):
        EXPORTS[ending](model, old, images())
    assert (os.listdir(tmp_path), old.read_text()) == ([old.name], "old")


def test_a_crash_while_writing_leaves_nothing(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr({"pt2": pt2_module, "onnx": onnx_module}[ending], "_verify", crash)
    with pytest.raises(KeyboardInterrupt):
        EXPORTS[ending](Small(), tmp_path / f"a.{ending}", images())
    assert not os.listdir(tmp_path)


def test_what_is_refused(ending: str, tmp_path: Path) -> None:
    export, path, small = EXPORTS[ending], tmp_path / f"a.{ending}", Small()
    for call, error, message in (
        (lambda: export(small, tmp_path / "a.pt", images()), ConfigError, rf"writes a \.{ending} file, got the path"),
        (lambda: export(small, path, 3), ConfigError, "example_inputs must be a tensor, a tuple"),
        (lambda: export(Small, path, images()), ConfigError, "takes a model, got the class Small"),
        (lambda: export(small, path, ([images()[0]],)), ExportError, "takes a list, whose length is a part of"),
        (lambda: export(small, path, torch.tensor(1.0)), ExportError, "no input has a batch dim"),
        (lambda: export(small, path, torch.randn(2, 5, 8, 8)), ExportError, "can't be exported at 'stem', a Conv2d"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert not os.listdir(tmp_path)


def test_what_a_model_keeps_is_not_changed(ending: str, tmp_path: Path) -> None:
    model = Small(Keeping())
    path = EXPORTS[ending](model, tmp_path / f"a.{ending}", images())
    assert model.after.kept == {}
    assert all(module.training for module in model.modules())
    model.eval()
    assert_close(run(path, images(3))[0], model(images(3)), rtol=1e-4, atol=1e-5)


def test_half_precision(ending: str, tmp_path: Path) -> None:
    model = Small().eval().half()
    path = EXPORTS[ending](model, tmp_path / f"a.{ending}", images().half())
    assert_close(run(path, images(3).half())[0], model(images(3).half()), rtol=1e-2, atol=1e-2)


# --- ONNX alone -------------------------------------------------------------------------------------------------------


class Rare(nn.Module):
    """Has an operator that ONNX has none for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x[:, :, None] * x[:, None, :])


def test_an_operator_that_onnx_lacks(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Small can't be exported at 'after', a Rare: .*linalg_eigh.*lacks it"):
        export_onnx(Small(Rare()), tmp_path / "a.onnx", images())
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_a_package(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"need {package}; pip install 'lightning-channels\[export\]'"):
        export_onnx(Small(), tmp_path / "a.onnx", images())


def test_without_a_runtime_it_says_that_nothing_was_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.warns(UserWarning, match="isn't compared with the model, since onnxruntime isn't installed"):
        export_onnx(Small(), tmp_path / "a.onnx", images())


def test_what_the_runtime_lacks(tmp_path: Path) -> None:
    model = Small().eval().bfloat16()
    with pytest.raises(ExportError, match=r"onnxruntime can't run what was written: .*verify=False"):
        export_onnx(model, tmp_path / "a.onnx", images().bfloat16())
    assert not os.listdir(tmp_path)


def test_more_than_a_file_can_hold(tmp_path: Path) -> None:
    model = Small()
    model.register_buffer("large", torch.zeros(1).expand(2**29))
    with pytest.raises(ExportError, match=r"Small has 2\.0 GiB of tensors, and an ONNX file holds at most 2 GiB"):
        export_onnx(model, tmp_path / "a.onnx", images())


def test_attention_without_its_fast_path(ending: str, tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(2, 5, 16)
    mutator = prepared(model, x, "last")
    path = EXPORTS[ending](model, tmp_path / f"a.{ending}", x)
    y = torch.randn(3, 5, 16)
    assert_close(run(path, y)[0], export_subnet(mutator.model)(y), rtol=1e-4, atol=1e-5)
