"""Batch-norm statistics for the width that is active now.

Under slimmable training all widths share one set of running statistics, so these fit none of them. Before a width is
measured or exported its statistics are computed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels._rng import preserve_rng
from lightning_channels.dynamic_ops import containers, is_dynamic, statistics_holder, stored_candidates
from lightning_channels.errors import ConfigError

__all__ = ["recalibrate_batch_norm"]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_INPUT_KEYS = ("pixel_values", "image", "x")


@torch.no_grad()
def recalibrate_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Any] | None = None,
    num_batches: int | None = None,
) -> None:
    """Compute the running statistics of all norms anew, at the current choices.

    The statistics become the plain average over the batches, as with ``momentum=None``. Only active channels change;
    those of the other channels, ``num_batches_tracked``, all modes and momenta, and the random number generators are
    afterwards as they were, so that training can go on as if nothing had happened. Only the norms run in train mode:
    dropout is off. Each process sees its own batches; nothing is averaged over processes.

    Args:
        model: A prepared, an exported or a plain model.
        batches: Training batches, for instance the train data loader.
        forward: Called as ``forward(model, batch)``; by default the model is called with the batch if this is a tensor,
            with its first entry if it is a tuple or list, or with its ``pixel_values``, ``image`` or ``x`` if it is a
            dict; tensors are moved to the model's device.
        num_batches: Use this many batches at most.

    Raises:
        ConfigError: If there is no batch, if ``num_batches`` is below 1, or if the default ``forward`` finds no input
            in a batch. As after every exception, the statistics are then as they were.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        >>> recalibrate_batch_norm(net, [torch.randn(8, 3, 4, 4) for _ in range(3)])
        >>> bool(net[1].running_mean.any())
        True
    """
    if num_batches is not None and (isinstance(num_batches, bool) or not isinstance(num_batches, int)):
        raise ConfigError(f"num_batches must be an integer or None, got {num_batches!r}")
    if num_batches is not None and num_batches < 1:
        raise ConfigError(f"num_batches must be at least 1, got {num_batches}")
    forward = forward or _default_forward
    stored = stored_candidates(model)  # these only hold the statistics that a switchable norm works on
    norms = [module for module in model.modules() if _has_statistics(module) and id(module) not in stored]
    if not norms:
        return
    with preserve_rng(), _only_norms_train(model, norms), _statistics_from_scratch(norms):
        seen = 0
        for batch in islice(batches, num_batches):
            forward(model, batch)
            seen += 1
        if not seen:
            raise ConfigError("there are no batches to recalibrate on: batches is empty, or was consumed before")


def _has_statistics(module: nn.Module) -> bool:
    """Whether it is a norm that tracks statistics; subclasses of torch's (timm's BatchNormAct2d) included."""
    return isinstance(module, nn.modules.batchnorm._NormBase) and module._buffers.get("running_mean") is not None


def _active(norm: nn.Module) -> Tensor | None:
    """The mask of the norm's active channels; None if all are."""
    container = containers(norm).get("num_features") if is_dynamic(norm) else None
    return None if container is None else container.current_mask


@contextmanager
def _only_norms_train(model: nn.Module, norms: list[nn.Module]) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for norm in norms:
            norm.training = True  # not .train(): a norm's children (an activation, a drop block) stay in eval mode
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _statistics_from_scratch(norms: list[nn.Module]) -> Iterator[None]:
    """Average over all calls inside the block; what wasn't called, isn't active, or fails, keeps its statistics."""
    holders = [statistics_holder(norm) for norm in norms]
    saved = [
        {name: None if (b := holder._buffers[name]) is None else b.clone() for name in _STATISTICS}
        for holder in holders
    ]
    momenta = [norm.momentum for norm in norms]
    calls = [0] * len(norms)
    handles = [norm.register_forward_pre_hook(_counter(calls, i)) for i, norm in enumerate(norms)]
    keep = [torch.tensor(True)] * len(norms)
    try:
        for holder in holders:
            # a NaN would survive a weight of 0, so the old values go
            holder._buffers["running_mean"].zero_()  # type: ignore[union-attr]
            holder._buffers["running_var"].fill_(1)  # type: ignore[union-attr]
        yield
        keep = [_inactive(norm) if count else keep[i] for i, (norm, count) in enumerate(zip(norms, calls, strict=True))]
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for holder, old, mask in zip(holders, saved, keep, strict=True):
            _put_back(holder, old, mask)


def _counter(calls: list[int], i: int) -> Callable[[nn.Module, Any], None]:
    def count(norm: nn.Module, _: Any) -> None:
        calls[i] += 1
        # the k-th call weighs 1/k, also where torch counts no batches (instance norm) and where a norm runs twice
        norm.momentum = 1.0 / calls[i]  # type: ignore[assignment]

    return count


def _inactive(norm: nn.Module) -> Tensor:
    mask = _active(norm)
    return torch.tensor(False) if mask is None else ~mask


def _put_back(norm: nn.Module, old: dict[str, Tensor | None], mask: Tensor) -> None:
    for name, value in old.items():
        buffer = norm._buffers[name]
        if buffer is None or value is None:
            continue
        if name == "num_batches_tracked":
            buffer.copy_(value)
        else:
            buffer.copy_(torch.where(mask.to(buffer.device), value, buffer))


def _default_forward(model: nn.Module, batch: Any) -> Any:
    inputs = batch
    if isinstance(batch, Mapping):
        inputs = next((batch[key] for key in _INPUT_KEYS if key in batch), None)
    elif isinstance(batch, (tuple, list)) and batch:
        inputs = batch[0]
    if not isinstance(inputs, Tensor):
        keys = f" with the keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
        raise ConfigError(
            f"found no input in a batch of type {type(batch).__name__}{keys}: a tensor, a tuple or list that begins "
            f"with one, or a dict with {', '.join(_INPUT_KEYS)} would do; else pass forward=lambda model, batch: ..."
        )
    parameter = next(model.parameters(), None)
    return model(inputs if parameter is None else inputs.to(parameter.device))
