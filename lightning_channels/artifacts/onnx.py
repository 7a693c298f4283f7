"""The subnet as an ONNX file."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_channels._files import replacing
from lightning_channels.artifacts._comparing import check_same
from lightning_channels.artifacts._model import file_path, plain_model
from lightning_channels.artifacts._packages import needed
from lightning_channels.artifacts._program import UNTRANSLATED, Exported, closing_in_on, exported, told
from lightning_channels.errors import ExportError
from lightning_channels.tracing.running import ExampleInputs
from lightning_channels.units.choosing import Choice

__all__ = ["export_onnx"]

_TRACE = "pkg.torch.onnx.stack_trace"
"""Where an operator notes the lines of code that it is from, with the paths of this machine."""

_MAX_BYTES = 2**31 - 2**20
"""Of the tensors; a protobuf file can't be larger than 2 GiB."""


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: ExampleInputs,
    choices: Mapping[str, Choice] | None = None,
    *,
    dynamic_batch: bool = True,
    dynamic_shapes: Any = None,
    opset: int | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    verify: bool = True,
) -> Path:
    """Write the small model, in eval mode, as one ``.onnx`` file; needs ``lightning-channels[export]``.

    Args:
        model: A prepared model, at its current choices by default, or an exported one; it isn't changed.
        path: A ``.onnx`` file; it is there whole, or as it was before.
        example_inputs: A tensor, a tuple of positional or a dict of keyword arguments. They aren't written.
        choices: Of a prepared model, as :func:`lightning_channels.export_subnet` takes them.
        dynamic_batch: Whether dim 0 of the inputs (named ``batch``) may have any size; else it is that of the example.
        dynamic_shapes: As ``torch.export.export`` takes them, in the place of a dynamic batch.
        opset: Version of ONNX's operators; PyTorch's choice by default.
        input_names: Names of the inputs; those of ``forward``'s arguments by default.
        output_names: Names of the outputs.
        verify: Whether to run the file with onnxruntime, if that is installed, and compare it with the model, for
            another batch as well.

    Returns:
        The path.

    Raises:
        ExportError: If the model can't be captured (the message names the module) or has an operator that ONNX hasn't,
            or if what was written computes something else.
        ConfigError: If the path has another ending, there is no tensor among the inputs, or a package isn't installed.
        PrepareError: If there are choices for a model that isn't prepared.
        ChoiceError: If a choice isn't allowed.
    """
    path = file_path(path, ".onnx", "export_onnx")
    for package in ("onnx", "onnxscript"):
        needed(package, "files in ONNX")
    small = plain_model(model, choices, "export_onnx")
    _refuse_large(small)
    made = exported(small, example_inputs, "export_onnx", dynamic_batch, dynamic_shapes)
    with closing_in_on(small, "export_onnx", dynamic_batch, lambda error: _operator_at(made, error)):
        program = _translated(made, opset, input_names, output_names)
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)
        if verify:
            _verify(temporary, path, made)
    return path


def _refuse_large(model: nn.Module) -> None:
    size = sum(tensor.nbytes for tensor in {id(t): t for t in model.state_dict(keep_vars=True).values()}.values())
    if size > _MAX_BYTES:
        raise ExportError(
            f"export_onnx: {type(model).__name__} has {size / 2**30:.1f} GiB of tensors, and an ONNX file holds at "
            "most 2 GiB; write it with export_pt2, or in half precision (model.half())"
        )


def _translated(
    made: Exported, opset: int | None, input_names: Sequence[str] | None, output_names: Sequence[str] | None
) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            made.program,
            (),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=input_names,
            output_names=output_names,
        )
    if made.batched:
        free = {str(dim) for value in program.model.graph.inputs for dim in value.shape if not isinstance(dim, int)}
        program.rename_axes(dict.fromkeys(free, "batch"))
    for node in program.model.graph.all_nodes():
        node.metadata_props.pop(_TRACE, None)
    return program


def _operator_at(made: Exported, error: Exception) -> str:
    """The module of the operator that can't be translated: its code isn't running any more."""
    if type(error).__name__ != UNTRANSLATED:
        return ""
    message = told(error)
    for node in made.program.run_decompositions().graph.nodes:
        schema, stack = getattr(node.target, "_schema", None), node.meta.get("nn_module_stack")
        if schema is not None and stack and f"'{schema.name.replace('::', '.')}'" in message:
            name, kind = list(stack.values())[-1]
            return f" at {name!r}, a {str(kind).rpartition('.')[2]}"
    return ""


def _verify(file: Path, path: Path, made: Exported) -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        warnings.warn(
            f"{path} isn't compared with the model, since onnxruntime isn't installed; pip install "
            "'lightning-channels[export]', or pass verify=False",
            stacklevel=3,
        )
        return
    runtime = needed("onnxruntime", "verified files in ONNX")
    for args, kwargs, expected in made.runs:
        tensors = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
        try:
            given = _run(runtime, file, tensors)
        except Exception as error:  # onnxruntime's errors have no other base
            raise ExportError(
                f"export_onnx: onnxruntime can't run what was written: {told(error)}. Nothing was written; "
                "verify=False writes it all the same, for another runtime"
            ) from error
        check_same(given, expected, str(path))


def _run(runtime: Any, file: Path, tensors: Sequence[Tensor]) -> list[Tensor]:
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = {name: tensor.cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, feed)]
