"""A model as a program of ``torch.export``, for any batch: what both formats of graphs are written from."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils._pytree import tree_leaves, tree_map

from lightning_channels._modules import named_modules_of
from lightning_channels.errors import ChannelsError, ConfigError, ExportError
from lightning_channels.tracing.preserving import keeping_attributes
from lightning_channels.tracing.recorder import tensors_in
from lightning_channels.tracing.running import ExampleInputs, call, doubled, evaluating

__all__ = ["UNTRANSLATED", "Exported", "closing_in_on", "exported", "told"]

_BATCH = "batch"
UNTRANSLATED = "ConversionError"
"""Class of the errors of operators that ONNX lacks."""


@dataclass(slots=True)
class Exported:
    """A program, and examples of what the model returns.

    Attributes:
        program: Of the model in eval mode; without its example.
        runs: Arguments, keyword arguments and the tensors that the model returns for them: of the example, and of one
            with another batch where the batch is dynamic.
        batched: Whether dim 0 of the inputs is dynamic.
    """

    program: ExportedProgram
    runs: list[tuple[tuple[Any, ...], dict[str, Any], list[Tensor]]]
    batched: bool


def exported(
    model: nn.Module, inputs: ExampleInputs, what: str, dynamic_batch: bool, dynamic_shapes: Any = None
) -> Exported:
    """Capture a plain model, which comes out as it went in.

    Args:
        model: Plain.
        inputs: Example inputs; a single example is repeated, since programs take a size of 1 for a constant.
        what: The function that was called, for messages.
        dynamic_batch: Whether dim 0 of the inputs is free.
        dynamic_shapes: Of ``torch.export.export``, in the place of that.

    Raises:
        ExportError: If it can't be captured; the message says which module that lies at.
        ConfigError: If there is no tensor among the inputs.
    """
    batched = dynamic_batch and dynamic_shapes is None
    args, kwargs = _arguments(model, doubled(inputs) if batched else inputs)
    free = _free(args, kwargs, what) if batched else []
    shapes: Any = dynamic_shapes
    if batched:
        dim, shapes = Dim(_BATCH), ShapesCollection()  # type: ignore[no-untyped-call]
        for tensor in free:
            shapes[tensor] = {0: dim}
    with evaluating(model), torch.no_grad(), _quiet():
        # a model that keeps what it computes (in a cache of its own) would keep tensors that are none
        with closing_in_on(model, what, dynamic_batch), keeping_attributes(model):
            program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
        calls = [(args, kwargs)]
        if batched:
            grown = {id(tensor): torch.cat([tensor, tensor[:1]]) for tensor in free}
            calls.append(tree_map(lambda item: grown.get(id(item), item), (args, kwargs)))
        runs = [(own, named, list(tensors_in(call(model, named or own)))) for own, named in calls]
    program.example_inputs = None  # the data of whoever exports it is no part of the model
    return Exported(program, runs, batched)


def _arguments(model: nn.Module, inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments; the latter in the order of the signature, which is that of a program."""
    if not any(True for _ in tensors_in(inputs)):
        raise ConfigError(
            "example_inputs must be a tensor, a tuple of positional arguments or a dict of keyword arguments with at "
            f"least one tensor, got a {type(inputs).__name__} with none"
        )
    if isinstance(inputs, Mapping):
        order = list(inspect.signature(model.forward).parameters)
        rank = {name: number for number, name in enumerate(order)}
        return (), {name: inputs[name] for name in sorted(inputs, key=lambda name: rank.get(name, len(rank)))}
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})


def _free(args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> list[Tensor]:
    """The tensors with the batch as dim 0: those of the size that most of them have there."""
    if any(isinstance(item, list) for item in (*args, *kwargs.values())):
        raise ExportError(
            f"{what}: the model takes a list, whose length is a part of the program; pass dynamic_batch=False, or "
            "dynamic_shapes"
        )
    tensors = {id(item): item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor) and item.dim()}
    sizes = Counter(tensor.shape[0] for tensor in tensors.values())
    if not sizes:
        raise ExportError(f"{what}: no input has a batch dim; pass dynamic_batch=False")
    size = sizes.most_common(1)[0][0]
    return [tensor for tensor in tensors.values() if tensor.shape[0] == size]


@contextmanager
def closing_in_on(
    model: nn.Module, what: str, dynamic_batch: bool, find: Callable[[Exception], str] = lambda _: ""
) -> Iterator[None]:
    """Turn whatever is raised inside into one error that names the model and the module.

    Args:
        model: Whose code may be running.
        what: The function that was called.
        dynamic_batch: Whether that is what may be given up.
        find: Says where an error lies that none of the model's code raised.

    Raises:
        ExportError: With what was raised as its cause; the package's own errors pass as they are.
    """
    try:
        yield
    except ChannelsError:
        raise
    except Exception as error:  # the model's code runs, which may fail in any way
        where = _where(error.__traceback__, model) or find(error)
        raise ExportError(
            f"{what}: {type(model).__name__} can't be exported{where}: {told(error)}. {_advice(error, dynamic_batch)}"
        ) from error


def _where(traceback: TracebackType | None, model: nn.Module) -> str:
    """The innermost module whose code was running."""
    names = {id(module): (name, type(module).__name__) for name, module in named_modules_of(model)}
    found = ""
    while traceback is not None:
        name, kind = names.get(id(traceback.tb_frame.f_locals.get("self")), ("", ""))
        found = f" at {name!r}, a {kind}" if name else found
        traceback = traceback.tb_next
    return found


def told(error: BaseException) -> str:
    """The first line of what an error was caused by."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next((" ".join(line.split()) for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line[:300]}{'…' if len(line) > 300 else ''}"


def _advice(error: Exception, dynamic_batch: bool) -> str:
    if type(error).__name__ == UNTRANSLATED:
        return "ONNX, or PyTorch's translation, lacks it: write that module with other operators, or take export_pt2"
    if dynamic_batch and (f"({_BATCH})" in str(error) or "specialized" in str(error)):
        return "Its code needs this very batch: pass dynamic_batch=False for a program of that size"
    if "data-dependent" in str(error):
        return "What it does depends on the values of tensors, which a program can't: write that branch with tensors"
    also = ", or try dynamic_batch=False" if dynamic_batch else ""
    return f"See whether torch.export.export takes the plain model; change the module's code{also}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of torch's own deprecations; what matters is an error or compared afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
