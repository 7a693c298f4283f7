"""Candidates spread over processes: each evaluates its share of them, and all know all results."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from lightning_channels._plain import is_int
from lightning_channels.errors import ChannelsError, ConfigError
from lightning_channels.search.protocol import Evaluate
from lightning_channels.search.space import Choices

__all__ = ["RankExecutor"]

_OF_A_LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_WAIT = timedelta(days=7)
"""A process that ends is noticed at once; one that evaluates may take its time."""


class RankExecutor:
    """Evaluates choices in several processes, each of which runs the same search.

    Every process asks the same algorithm, evaluates its share and gets the results of all, so all of them end with the
    same result, which is that of one process. The first one reads and writes the journal. An evaluation works in
    its own process alone: with :class:`~lightning_channels.SubnetEvaluator` on one device, over the whole validation
    subset.

    The processes are those of ``torch.distributed``; where it isn't initialised, it is as ``torchrun``'s environment
    variables say, on gloo. CPU messages are all that is exchanged, a few hundred bytes a choice.

    Args:
        per_rank: How many choices a process evaluates before results are exchanged and written down: a search that is
            killed has lost so many. More of them make processes wait less for each other.

    Attributes:
        rank: The number of this process.
        world_size: How many processes there are.
        at_once: How many choices all of them take before results are exchanged.

    Raises:
        ConfigError: If ``per_rank`` is below 1, or if there is neither a process group nor a launcher's environment.

    Example::

        # torchrun --nproc-per-node 2 search.py
        result = search_subnets(space, evaluate, executor=RankExecutor(), journal="search.jsonl")
    """

    def __init__(self, per_rank: int = 4) -> None:
        if not is_int(per_rank) or per_rank < 1:
            raise ConfigError(f"per_rank must be a whole number of at least 1, got {per_rank!r}")
        _initialize()
        # of its own: the default one may be NCCL's, which sends nothing that isn't on a GPU, and gives up after minutes
        self._group: Any = dist.new_group(backend="gloo", timeout=_WAIT)
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.at_once = per_rank * self.world_size

    @property
    def leads(self) -> bool:
        """Whether this process reads and writes the journal."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """The leading process's value, in all processes."""
        shared = [value]
        dist.broadcast_object_list(shared, src=0, group=self._group)
        return shared[0]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Refuse to go on if the processes don't do the same search.

        Args:
            facts: Plain data.

        Raises:
            ConfigError: In all processes, if one differs from the first.
        """
        for rank, other in enumerate(found := self._of_all(dict(facts))):
            differ = [key for key, value in found[0].items() if other.get(key) != value]
            if differ:
                raise ConfigError(
                    f"the ranks don't search for the same: rank {rank} has other {differ[0]} than rank 0. Give each "
                    "rank the same space, arguments and weights"
                )

    def _of_all(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value, group=self._group)
        return found

    def map(self, evaluate: Evaluate, choices: list[Choices]) -> list[Mapping[str, Any]]:
        """The metrics of each choice, of which this process evaluates every ``world_size``-th.

        Args:
            evaluate: A choice → its metrics.
            choices: The same ones in all processes.

        Raises:
            ChannelsError: If an evaluation failed in another process; in that one its own error is raised.
            ConfigError: If the processes were given different choices.
        """
        own: list[dict[str, float]] = []
        error: Exception | None = None
        try:
            own = [
                {name: float(value) for name, value in evaluate(choice).items()}
                for choice in choices[self.rank :: self.world_size]
            ]
        except Exception as raised:  # whatever a user's evaluation raises; the others are told first
            error = raised
        told = {"asked": _digest(choices), "error": error and f"{type(error).__name__}: {error}", "metrics": own}
        found = self._of_all(told)
        if error is not None:
            raise error
        self._check(found)
        return [found[at % self.world_size]["metrics"][at // self.world_size] for at in range(len(choices))]

    def _check(self, found: list[dict[str, Any]]) -> None:
        failed = {rank: one["error"] for rank, one in enumerate(found) if one["error"] is not None}
        if failed:
            raise ChannelsError(
                "; ".join(f"the evaluation failed on rank {rank}: {message}" for rank, message in failed.items())
            )
        differ = [rank for rank, one in enumerate(found) if one["asked"] != found[0]["asked"]]
        if differ:
            raise ConfigError(
                f"rank {differ[0]} was asked for other choices than rank 0. Give each rank the same space, algorithm, "
                "budget and seed, and an algorithm that is a function of these; an Optuna study with a storage is "
                "shared by searches of their own instead, without a RankExecutor"
            )


def _initialize() -> None:
    if not dist.is_available():
        raise ConfigError("this torch is built without torch.distributed, which a RankExecutor needs")
    if dist.is_initialized():
        return
    if not all(name in os.environ for name in _OF_A_LAUNCHER):
        raise ConfigError(
            "a RankExecutor needs several processes, and there is neither a process group nor a launcher's environment "
            f"({', '.join(_OF_A_LAUNCHER)}). Start the program with torchrun --nproc-per-node N, or leave out the "
            "executor"
        )
    dist.init_process_group("gloo")


def _digest(choices: list[Choices]) -> str:
    return hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()
