"""Computing the statistics anew: for good, or for a block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_channels._progress import Progress, check_progress, told
from lightning_channels._rng import preserve_rng
from lightning_channels.errors import ConfigError
from lightning_channels.recalibration.inputs import default_forward
from lightning_channels.recalibration.ranks import combine, in_step, own_groups, report_failure, spans_ranks
from lightning_channels.recalibration.statistics import (
    norms_of,
    only_norms_train,
    put_back_after,
    statistics_from_scratch,
)

__all__ = ["recalibrate_batch_norm", "recalibrated"]

Forward = Callable[[nn.Module, Any], Any]


@torch.no_grad()
def recalibrate_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Forward | None = None,
    num_batches: int | None = None,
    sync: bool | None = None,
    progress: Progress = None,
) -> None:
    """Compute the running statistics of all norms anew, at the current choices.

    The statistics become the plain average over the batches, as with ``momentum=None``. Only active channels change;
    those of the other channels, ``num_batches_tracked``, all modes and momenta, and the random number generators are
    afterwards as they were, so that training can go on as if nothing had happened. Only the norms run in train mode:
    dropout is off.

    In several processes each gives its own batches, which may be more or fewer than those of the others or none. A
    norm's mean and variance are then the total ones: those of each rank weigh as much as the norm had calls there, and
    the ranks' means add to the variance what they differ by. All ranks end with the same.

    Args:
        model: A prepared, an exported or a plain model; a ``DistributedDataParallel`` stands for the module in it.
        batches: Training batches, for instance the train data loader.
        forward: Called as ``forward(model, batch)``. By default the model is called with a tensor as it is; with the
            first entry of a tuple or list (a dict or tuple there is unpacked); with what its own ``forward`` accepts by
            name of a mapping, if that has all that is required there, else with the entry ``pixel_values``, ``image``,
            ``x``, ``images``, ``input`` or ``inputs``. A named tuple or a dataclass is a mapping first, else its first
            field counts. Tensors are moved to the model's device.
        num_batches: Use this many batches at most, on each rank.
        sync: Whether the ranks of ``torch.distributed`` are combined. All of them must call this then, at the same
            choices. None for where there are several, True to require that, False for each by itself (on rank zero
            alone, for instance).
        progress: True for a bar on the standard error (of rank zero alone, where ranks are combined), or a function
            that is called after each batch with how many are done and how many there are, None where that isn't known.

    Raises:
        ConfigError: If there is no batch on any rank, if ``num_batches`` is below 1, if the default ``forward`` finds
            no input in a batch, if ``sync`` is True in a single process, if the ranks' choices differ, or if
            ``progress`` is something else. As after every exception, the statistics are then as they were.
        ChannelsError: If another rank failed.

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
    check_progress(progress)
    together = spans_ranks(sync)
    if progress is True and together and torch.distributed.get_rank():
        progress = None
    if isinstance(model, DistributedDataParallel):
        model = model.module  # its own forward would copy rank zero's statistics to all, and wait for all in each batch
    norms = norms_of(model)
    if not norms:
        return
    shown = told(progress, "recalibrating", _number_of(batches, num_batches))
    with (
        preserve_rng(),
        only_norms_train(model, norms),
        statistics_from_scratch(norms) as calls,
        own_groups(norms),
        shown as step,
    ):
        try:
            used = in_step(islice(batches, num_batches), norms, together)
            seen = _run(model, used, forward or default_forward, step)
        except Exception:
            if together:
                report_failure(norms)
            raise
        if together:
            seen = combine(norms, calls, seen)
        if not seen:
            raise ConfigError("there are no batches to recalibrate on: batches is empty, or was consumed before")


@contextmanager
def recalibrated(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Forward | None = None,
    num_batches: int | None = None,
    sync: bool | None = None,
    progress: Progress = None,
) -> Iterator[None]:
    """Recalibrate for a block only: measure a width in the middle of a training, and leave no trace.

    All norms' statistics, ``num_batches_tracked`` included, are afterwards exactly those from before, also after an
    exception, whatever choices were set or batches were trained on in the block.

    Args:
        model: As for :func:`recalibrate_batch_norm`.
        batches: Training batches.
        forward: As for :func:`recalibrate_batch_norm`.
        num_batches: Use this many batches at most, on each rank.
        sync: As for :func:`recalibrate_batch_norm`.
        progress: As for :func:`recalibrate_batch_norm`.

    Raises:
        ChannelsError: As :func:`recalibrate_batch_norm` does.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        >>> with recalibrated(net, [torch.randn(8, 3, 4, 4)]):
        ...     bool(net[1].running_mean.any())
        True
        >>> bool(net[1].running_mean.any())
        False
    """
    with put_back_after(model):
        recalibrate_batch_norm(model, batches, forward, num_batches, sync, progress)
        yield


def _run(model: nn.Module, batches: Iterable[Any], forward: Forward, step: Callable[[], object]) -> int:
    seen = 0
    for batch in batches:
        forward(model, batch)
        seen += 1
        step()
    return seen


def _number_of(batches: Iterable[Any], most: int | None) -> int | None:
    """How many batches will be used, if that is known."""
    try:
        count = len(batches)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):  # a generator, or a loader over an iterable data set
        return most
    return count if most is None else min(count, most)
