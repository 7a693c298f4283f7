"""Running a model on example inputs and leaving it as it was."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lightning_channels.errors import ConfigError, TraceError
from lightning_channels.tracing.preserving import (
    Attributes,
    keeping_attributes,
    preserving,
    switch_mode,
    without_dropout,
)
from lightning_channels.tracing.recorder import tensors_in

__all__ = [
    "ExampleInputs",
    "batch_size",
    "call",
    "default_inputs",
    "describe",
    "doubled",
    "evaluating",
    "mapped",
    "run",
    "training",
    "with_batch",
]

ExampleInputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""One tensor, positional arguments, or keyword arguments of ``model.forward``."""


def call(model: nn.Module, inputs: ExampleInputs, attributes: Attributes | None = None) -> Any:
    """``model(x)``, ``model(*xs)`` or ``model(**xs)``, by the kind of ``inputs``; its modules keep their attributes.

    What it warns of is left for its real runs: that no gradients are recorded, say, is so for a trial alone.

    Args:
        model: Is called.
        inputs: With these.
        attributes: Those of its modules, if they are known.
    """
    with keeping_attributes(model, attributes), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if isinstance(inputs, (tuple, list)):
            return model(*inputs)
        return model(inputs)


def default_inputs(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """Random images on the model's device and in its dtype, without touching the global random state."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(tuple(shape), generator=generator, device="cpu").to(like.device, like.dtype)


def check_inputs(inputs: Any) -> ExampleInputs:
    """Copy example inputs, so that a model that writes into them harms nobody.

    Raises:
        ConfigError: If there is no tensor in them.
    """
    if isinstance(inputs, (Tensor, tuple, list, Mapping)) and any(True for _ in tensors_in(inputs)):
        return cast(ExampleInputs, mapped(lambda tensor: tensor.detach().clone(), inputs))
    raise ConfigError(
        "example_inputs must be a tensor, a tuple of positional arguments or a dict of keyword arguments with at least "
        f"one tensor, got a {type(inputs).__name__} with none"
    )


def describe(inputs: Any) -> str:
    """Shapes of all tensors in ``inputs``, for messages."""
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in tensors_in(inputs))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Eval mode without the fused attention path; afterwards modes, buffers and random states are as they were.

    Yields:
        Puts the buffers back already within the block.
    """
    with preserving(model) as restore, _without_fast_path():
        switch_mode(model, False)
        yield restore


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Train mode with dropout and stochastic depth off, inside ``evaluating``, which puts back what this leaves."""
    with without_dropout(model):
        switch_mode(model, True)
        yield


@contextmanager
def _without_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def doubled(inputs: ExampleInputs) -> ExampleInputs:
    """A copy of the inputs, twice along the batch dim if the batch is a single example: batch norm refuses that."""
    copied = check_inputs(inputs)
    return with_batch(copied, 2) if batch_size(copied) == 1 else copied


def batch_size(inputs: ExampleInputs) -> int | None:
    """How many examples there are: the leading size that most tensors share, and None if none has any.

    A mask or a table of positions has another size there. A list of images of their own sizes (and of their targets) is
    a batch too.
    """
    sizes = Counter(size for argument in _arguments(inputs) for size in _leading_sizes(argument))
    return sizes.most_common(1)[0][0] if sizes else None


def with_batch(inputs: ExampleInputs, number: int) -> ExampleInputs:
    """A copy of the inputs with so many examples: the first ones, or all of them again and again."""
    copied, examples = check_inputs(inputs), batch_size(inputs)

    def change(value: Any) -> Any:
        return _tiled(value, number) if _has_examples(value, examples) else value

    if isinstance(copied, Tensor):
        return cast(ExampleInputs, change(copied))
    if isinstance(copied, Mapping):
        return {key: mapped(change, value, _is_batch) for key, value in copied.items()}
    return tuple(mapped(change, value, _is_batch) for value in copied)


def _arguments(inputs: ExampleInputs) -> list[Any]:
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values() if isinstance(inputs, Mapping) else inputs)


def _has_examples(value: Any, number: int | None) -> bool:
    return len(value) == number if isinstance(value, list) else bool(value.dim()) and value.shape[0] == number


def _tiled(value: Any, number: int) -> Any:
    if isinstance(value, list):
        return [copy.deepcopy(value[at % len(value)]) for at in range(number)]
    return torch.cat([value] * -(-number // max(1, len(value))))[:number]


def _leading_sizes(argument: Any) -> Iterator[int]:
    if _is_batch(argument):
        yield len(argument)
    else:
        yield from (tensor.shape[0] for tensor in tensors_in(argument) if tensor.dim())


def _is_batch(value: Any) -> bool:
    """A list of images or of dicts is a batch; one of anything larger is a list of batches."""
    return (
        type(value) is list
        and bool(value)
        and all(item.dim() <= 3 if isinstance(item, Tensor) else isinstance(item, dict) for item in value)
    )


def mapped(change: Callable[[Any], Any], value: Any, is_leaf: Callable[[Any], bool] = lambda value: False) -> Any:
    """Nested containers and dataclasses again, with each tensor (and each further leaf) changed."""

    def leaf(item: Any) -> Any:
        if isinstance(item, Tensor) or is_leaf(item):
            return change(item)
        if isinstance(item, Mapping):  # PyTorch knows dicts, and not all that behave like one
            own: Any = copy.copy(item) if isinstance(item, MutableMapping) else {}
            for key, entry in item.items():
                own[key] = mapped(change, entry, is_leaf)
            return own
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            twin = copy.copy(item)
            for field in dataclasses.fields(item):
                object.__setattr__(twin, field.name, mapped(change, getattr(item, field.name), is_leaf))
            return twin
        return item

    return tree_map(leaf, value, is_leaf=is_leaf)


def run(model: nn.Module, inputs: ExampleInputs) -> Any:
    """Call the model, and turn whatever it raises into one clear error.

    Raises:
        TraceError: If it fails, or if nothing that it returns is a tensor.
    """
    try:
        outputs = call(model, inputs)
    except Exception as error:
        detail = " ".join(str(error).split())[:300]
        raise TraceError(
            f"{type(model).__name__} failed on its example input ({describe(inputs)}): {type(error).__name__}: "
            f"{detail}. Pass example_inputs that the model accepts: a tensor, a tuple of positional or a dict of "
            "keyword arguments, or set the tracer's input_shape"
        ) from error
    if not any(True for _ in tensors_in(outputs)):
        raise TraceError(
            f"{type(model).__name__} returned no tensor for its example input, but {type(outputs).__name__}"
        )
    return outputs
