"""Statistics of several processes: each runs its own batches, and all end with the total mean and variance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_channels.dynamic_ops import statistics_holder
from lightning_channels.errors import ChannelsError, ConfigError
from lightning_channels.recalibration.statistics import active_channels

__all__ = ["combine", "in_step", "own_groups", "report_failure", "spans_ranks"]

_END = object()


def spans_ranks(sync: bool | None) -> bool:
    """Whether the ranks are to be combined.

    Raises:
        ConfigError: If that is required and there is one process only, or if ``sync`` is something else.
    """
    if sync is not None and not isinstance(sync, bool):
        raise ConfigError(f"sync must be True, False or None, got {sync!r}")
    several = _initialized() and dist.get_world_size() > 1
    if sync and not several:
        raise ConfigError("sync=True needs torch.distributed, initialised with more than one process; pass sync=None")
    return several and sync is not False


@contextmanager
def own_groups(norms: list[nn.Module]) -> Iterator[None]:
    """Give synchronised norms their process groups back, which :func:`in_step` takes from them."""
    groups = [(norm, norm.process_group) for norm in norms if isinstance(norm, nn.SyncBatchNorm)]
    try:
        yield
    finally:
        for norm, group in groups:
            norm.process_group = group


def in_step(batches: Iterable[Any], norms: list[nn.Module], together: bool) -> Iterator[Any]:
    """The batches, such that synchronised norms never wait for a rank that has none left.

    These compute their batch's statistics over all ranks as long as all have one. From then on, and where the ranks
    aren't combined, they work as plain batch norms do.
    """
    synchronised = [norm for norm in norms if isinstance(norm, nn.SyncBatchNorm)] if _initialized() else []
    waiting = together and bool(synchronised)
    for batch in chain(batches, [_END]):
        waiting = waiting and _on_all_ranks(batch is not _END, norms)
        if not waiting:
            for norm in synchronised:
                norm.process_group = dist.GroupMember.NON_GROUP_MEMBER
        if batch is not _END:
            yield batch


def combine(norms: list[nn.Module], calls: list[int], seen: int) -> int:
    """Make every norm's statistics those of all ranks, by the law of total variance.

    All ranks compute the same from the same numbers, which they exchange in one go, so they end bitwise equal.

    Args:
        norms: The same ones on all ranks.
        calls: How often each was called; becomes the sum over the ranks.
        seen: Number of batches.

    Returns:
        The number of batches of all ranks.

    Raises:
        ChannelsError: If another rank has failed.
        ConfigError: If the ranks' choices differ.
    """
    holders = [statistics_holder(norm) for norm in norms]
    parts = [torch.tensor([0.0, seen, *calls], dtype=torch.float64)]
    for norm, holder in zip(norms, holders, strict=True):
        mean, var = _buffers(holder)
        mask = active_channels(norm)
        parts += [part.detach().to("cpu", torch.float64) for part in (mean, var)]
        parts.append(torch.ones_like(parts[-1]) if mask is None else mask.to("cpu", torch.float64))
    rows = _of_all_ranks(torch.cat(parts), norms)
    failed = rows[:, 0].nonzero().flatten().tolist()
    if failed:
        raise ChannelsError(f"the recalibration failed on rank {', '.join(map(str, failed))}; see the error there")
    counts, start = rows[:, 2 : 2 + len(norms)], 2 + len(norms)
    for i, holder in enumerate(holders):
        own_mean, own_var = _buffers(holder)
        means, variances, masks = rows[:, start : start + 3 * own_mean.numel()].chunk(3, dim=1)
        start += 3 * own_mean.numel()
        if not torch.equal(masks, masks[:1].expand_as(masks)):
            raise ConfigError("the ranks stand at different choices; set the same on all, or pass sync=False")
        calls[i] = int(counts[:, i].sum())
        if calls[i]:
            weights = counts[:, i, None]
            mean = (weights * means).sum(0) / calls[i]
            own_mean.copy_(mean)
            own_var.copy_((weights * (variances + (means - mean) ** 2)).sum(0) / calls[i])
    return int(rows[:, 1].sum())


def report_failure(norms: list[nn.Module]) -> None:
    """Let the other ranks, which wait in :func:`combine`, fail as well."""
    # where they wait inside a synchronised norm they would take this for its statistics; they are left to the launcher
    none = dist.GroupMember.NON_GROUP_MEMBER
    if not any(isinstance(norm, nn.SyncBatchNorm) and norm.process_group != none for norm in norms):
        channels = sum(_buffers(statistics_holder(norm))[0].numel() for norm in norms)
        row = torch.zeros(2 + len(norms) + 3 * channels, dtype=torch.float64)
        row[0] = 1
        _of_all_ranks(row, norms)


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _on_all_ranks(condition: bool, norms: list[nn.Module]) -> bool:
    flag = torch.tensor(int(condition), device=_device(norms))
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag)


def _of_all_ranks(row: Tensor, norms: list[nn.Module]) -> Tensor:
    row = row.to(_device(norms))
    rows = [torch.empty_like(row) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, row)
    return torch.stack(rows).cpu()


def _device(norms: list[nn.Module]) -> torch.device:
    """Where tensors have to be for the backend, which may know no CPU, while the model may be back there."""
    known = [pair.partition(":")[0] for pair in dist.get_backend_config().split(",")]
    own = _buffers(statistics_holder(norms[0]))[0].device
    return torch.device("cpu") if "cpu" in known else own if own.type in known else torch.device(known[0])


def _buffers(holder: nn.Module) -> tuple[Tensor, Tensor]:
    mean, var = holder._buffers["running_mean"], holder._buffers["running_var"]
    assert mean is not None
    assert var is not None
    return mean, var
