"""The subnet as a program of ``torch.export``: runs wherever PyTorch does, without the model's code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from lightning_channels._files import replacing
from lightning_channels.artifacts._comparing import check_same
from lightning_channels.artifacts._model import file_path, plain_model
from lightning_channels.artifacts._program import Exported, closing_in_on, exported
from lightning_channels.tracing.recorder import tensors_in
from lightning_channels.tracing.running import ExampleInputs
from lightning_channels.units.choosing import Choice

__all__ = ["export_pt2"]


def export_pt2(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: ExampleInputs,
    choices: Mapping[str, Choice] | None = None,
    *,
    dynamic_batch: bool = True,
    dynamic_shapes: Any = None,
    verify: bool = True,
) -> Path:
    """Write the small model, in eval mode, as a ``.pt2`` file for ``torch.export.load``.

    Args:
        model: A prepared model, at its current choices by default, or an exported one; it isn't changed.
        path: A ``.pt2`` file; it is there whole, or as it was before.
        example_inputs: A tensor, a tuple of positional or a dict of keyword arguments. They aren't written.
        choices: Of a prepared model, as :func:`lightning_channels.export_subnet` takes them.
        dynamic_batch: Whether dim 0 of the inputs may have any size; else it is that of the example.
        dynamic_shapes: As ``torch.export.export`` takes them, in the place of a dynamic batch.
        verify: Whether to load the file and compare it with the model, for another batch as well.

    Returns:
        The path.

    Raises:
        ExportError: If the model can't be captured (the message names the module), or what was written computes
            something else.
        ConfigError: If the path has another ending, or there is no tensor among the inputs.
        PrepareError: If there are choices for a model that isn't prepared.
        ChoiceError: If a choice isn't allowed.
    """
    path = file_path(path, ".pt2", "export_pt2")
    small = plain_model(model, choices, "export_pt2")
    made = exported(small, example_inputs, "export_pt2", dynamic_batch, dynamic_shapes)
    _forget_lines(made.program)
    with replacing(path) as temporary, closing_in_on(small, "export_pt2", dynamic_batch):
        with temporary.open("wb") as file:
            torch.export.save(made.program, file)
        if verify:
            _verify(temporary, path, made)
    return path


def _forget_lines(program: ExportedProgram) -> None:
    """Operators note the lines of code that they are from, with the paths of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def _verify(file: Path, path: Path, made: Exported) -> None:
    with file.open("rb") as opened:
        loaded = torch.export.load(opened).module()
    for args, kwargs, expected in made.runs:
        with torch.no_grad():
            check_same(list(tensors_in(loaded(*args, **kwargs))), expected, str(path))
