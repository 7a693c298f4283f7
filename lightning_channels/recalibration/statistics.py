"""The running statistics of a model's norms: which there are, computing them from nothing, putting them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels.dynamic_ops import containers, is_dynamic, statistics_holder, stored_candidates

__all__ = ["active_channels", "norms_of", "only_norms_train", "put_back_after", "statistics_from_scratch"]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def norms_of(model: nn.Module) -> list[nn.Module]:
    """The norms that track statistics; subclasses of torch's (timm's BatchNormAct2d) included."""
    stored = stored_candidates(model)  # these only hold the statistics that a switchable norm works on
    return [module for module in model.modules() if _has_statistics(module) and id(module) not in stored]


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase) and module._buffers.get("running_mean") is not None


def active_channels(norm: nn.Module) -> Tensor | None:
    """The mask of the norm's active channels; None if all are."""
    container = containers(norm).get("num_features") if is_dynamic(norm) else None
    return None if container is None else container.current_mask


@contextmanager
def only_norms_train(model: nn.Module, norms: list[nn.Module]) -> Iterator[None]:
    """Train mode for the norms and eval mode for the rest; afterwards all modes are as they were."""
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
def put_back_after(model: nn.Module) -> Iterator[None]:
    """Put back all statistics when the block ends, those of all candidates and channels."""
    saved = [(module, _copy(module)) for module in model.modules() if _has_statistics(module)]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, old in saved:
                _put_back(module, old, torch.tensor(True))


@contextmanager
def statistics_from_scratch(norms: list[nn.Module]) -> Iterator[list[int]]:
    """Average over all calls inside the block; what wasn't called, isn't active, or fails, keeps its statistics.

    Yields:
        The number of calls of each norm so far; whoever adds statistics of other processes changes these as well.
    """
    holders = [statistics_holder(norm) for norm in norms]
    saved = [_copy(holder) for holder in holders]
    momenta = [norm.momentum for norm in norms]
    calls = [0] * len(norms)
    handles = [norm.register_forward_pre_hook(_counter(calls, i)) for i, norm in enumerate(norms)]
    keep = [torch.tensor(True)] * len(norms)
    try:
        for holder in holders:
            # a NaN would survive a weight of 0, so the old values go
            holder._buffers["running_mean"].zero_()  # type: ignore[union-attr]
            holder._buffers["running_var"].fill_(1)  # type: ignore[union-attr]
        yield calls
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
    mask = active_channels(norm)
    return torch.tensor(False) if mask is None else ~mask


def _copy(holder: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if (buffer := holder._buffers[name]) is None else buffer.clone() for name in _STATISTICS}


def _put_back(holder: nn.Module, old: dict[str, Tensor | None], mask: Tensor) -> None:
    for name, value in old.items():
        buffer = holder._buffers[name]
        if buffer is None or value is None:
            continue
        if name == "num_batches_tracked":
            buffer.copy_(value)
        else:
            buffer.copy_(torch.where(mask.to(buffer.device), value.to(buffer.device), buffer))
