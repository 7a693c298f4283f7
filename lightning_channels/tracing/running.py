"""Running a model on example inputs and leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lightning_channels.errors import ConfigError, TraceError
from lightning_channels.tracing.recorder import tensors_in

__all__ = ["ExampleInputs", "call", "default_inputs", "describe", "doubled", "evaluating", "run"]

ExampleInputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""One tensor, positional arguments, or keyword arguments of ``model.forward``."""


def call(model: nn.Module, inputs: ExampleInputs) -> Any:
    """``model(x)``, ``model(*xs)`` or ``model(**xs)``, by the kind of ``inputs``."""
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
        copied: ExampleInputs = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, inputs)
        return copied
    raise ConfigError(
        "example_inputs must be a tensor, a tuple of positional arguments or a dict of keyword arguments with at least "
        f"one tensor, got {type(inputs).__name__}"
    )


def describe(inputs: Any) -> str:
    """Shapes of all tensors in ``inputs``, for messages."""
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in tensors_in(inputs))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without the fused attention path; afterwards modes, buffers and random state are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    values = {id(b): (b, b.detach().clone()) for _, own in buffers for b in own.values() if b is not None}
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with torch.random.fork_rng(devices=[d.index for d in devices]):
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            # some models keep a cache for eval mode that only the switch to train mode clears
            model.train()
            model.eval()
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)
            for module, training in modes:
                module.training = training
            for module, own in buffers:
                module._buffers.clear()
                module._buffers.update(own)
            with torch.no_grad():
                for buffer, value in values.values():
                    buffer.copy_(value)


def doubled(inputs: ExampleInputs) -> ExampleInputs:
    """The inputs twice along the batch dim."""
    twice: ExampleInputs = tree_map(
        lambda x: torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() else x, check_inputs(inputs)
    )
    return twice


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
            "keyword arguments"
        ) from error
    if not any(True for _ in tensors_in(outputs)):
        raise TraceError(
            f"{type(model).__name__} returned no tensor for its example input, but {type(outputs).__name__}"
        )
    return outputs
