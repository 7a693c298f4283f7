"""Whether two models compute the same, without any help of the tool that made one from the other."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

__all__ = [
    "TOLERANCE",
    "WrongResultError",
    "agree",
    "cast",
    "doubled",
    "flops",
    "narrowed_share",
    "outputs",
    "relative",
    "sizes",
    "train_outputs",
    "zero_inputs",
]

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest relative difference that passes for rounding."""


@torch.no_grad()
def outputs(model: nn.Module, inputs: Any, heads: Sequence[str] = ()) -> list[Tensor]:
    """All tensors that a model returns, whatever they are wrapped in, in eval mode.

    Args:
        model: The model.
        inputs: What it is called with.
        heads: Modules inside it whose results are wanted instead.
    """
    model.train()
    model.eval()  # some models keep a cache that only the switch of modes clears
    found: list[Any] = []
    handles = [
        model.get_submodule(head).register_forward_hook(lambda module, args, result: found.append(result))
        for head in heads
    ]
    try:
        made = _tensors(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)] if heads else made


@torch.no_grad()
def train_outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The same in train mode with dropout off; running statistics stay as they were."""
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    try:
        with _without_dropout(model), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for what is left that is random, in the same order in each model
            return _tensors(model, inputs)
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(saved[name])
        model.eval()


def _tensors(model: nn.Module, inputs: Any) -> list[Tensor]:
    given = copy.deepcopy(inputs)  # a model may write into them
    made = model(*given) if isinstance(given, tuple) else model(given)
    return [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Set the probabilities of dropout and stochastic depth to 0, by what all of them are called."""
    changed = []
    for module in model.modules():
        if not type(module).__name__.endswith(("Dropout", "Dropout2d", "Dropout3d", "DropPath", "StochasticDepth")):
            continue
        for name in ("p", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                changed.append((module, name, getattr(module, name)))
                setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)


def relative(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, relative to the largest value; infinite where numbers or shapes differ."""
    if [t.shape for t in found] != [t.shape for t in expected]:
        return math.inf
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if not b.numel():
            continue
        error = float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30))
        worst = max(worst, math.inf if math.isnan(error) else error)
    return worst


class WrongResultError(Exception):
    """Two models that must agree don't."""


def agree(what: str, found: list[Tensor], expected: list[Tensor], tolerance: float) -> float:
    """The relative difference of two models' outputs.

    Raises:
        WrongResultError: If it is beyond the tolerance; the message begins with ``what``.
    """
    error = relative(found, expected)
    if not error <= tolerance:
        raise WrongResultError(f"{what}: relative difference {error:.1e}")
    return error


def cast(inputs: Any, dtype: torch.dtype) -> Any:
    """Inputs with their floating tensors in another precision."""
    return tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, inputs)


def doubled(inputs: Any) -> Any:
    """Inputs of batch 2: each tensor and its mirror image, which a batch norm can tell apart."""
    return tree_map(lambda x: torch.cat([x, x.flip(-1)]) if isinstance(x, Tensor) and x.dim() else x, inputs)


def flops(model: nn.Module, inputs: Any) -> int:
    """Floating point operations of a forward pass by torch's own counter, which counts products and convolutions."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:  # the counter's hooks fail on an expanded parameter (cait)
            parameter.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            outputs(model, inputs)
    finally:
        for parameter in learning:
            parameter.requires_grad_()
    return int(counter.get_total_flops())


def sizes(model: nn.Module) -> dict[str, torch.Size]:
    """Shape of each parameter by name."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def narrowed_share(before: dict[str, torch.Size], after: dict[str, torch.Size]) -> tuple[float, float]:
    """How much of a model a tool reaches.

    Args:
        before: Shape of each parameter of the original model.
        after: The same when everything that can be halved is.

    Returns:
        Share of the parameters that are in a tensor which got smaller, and share of the parameters that is left.
    """
    total = sum(shape.numel() for shape in before.values())
    reached = sum(shape.numel() for name, shape in before.items() if after.get(name, shape).numel() < shape.numel())
    return reached / total, sum(shape.numel() for shape in after.values()) / total


@torch.no_grad()
def zero_inputs(module: nn.Module, positions: Tensor) -> None:
    """Take some of the channels that a layer reads out of its result: what multiplies them becomes zero.

    Norms and depthwise convolutions scale channels and don't mix them; they are left alone.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        return
    groups = getattr(module, "groups", 1)
    if getattr(module, "transposed", False):
        if not (groups > 1 and weight.shape[0] == groups):
            weight.index_fill_(0, positions, 0.0)
    elif groups == 1:
        weight.index_fill_(1, positions, 0.0)
    elif weight.shape[1] > 1:
        weight.index_fill_(1, (positions % weight.shape[1]).unique(), 0.0)
