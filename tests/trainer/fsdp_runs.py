"""Runs in two processes with FSDP2; called by the tests as ``python -m tests.trainer.fsdp_runs FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from lightning_channels import ChannelMutator, ChannelPruning, SlimmableChannelMutator
from tests.callbacks.nets import Classifier, images, loader, trainer
from tests.trainer.test_averaging import SLIMMABLE
from tests.trainer.twins import Run, run


class Sharded(Classifier):
    """Prepared, then sharded, layer by layer."""

    mutator: type[ChannelMutator] | None = ChannelMutator
    sharded = False

    def configure_model(self) -> None:
        if self.sharded:
            return
        self.sharded = True
        if self.mutator is not None:
            arguments = {"channel_unit_cfg": SLIMMABLE["channel_unit_cfg"]} if self.is_slimmable else {}
            self.mutator(**arguments).prepare_from_supernet(self, images().tensors[0][:2])
        self.shard()

    def shard(self) -> None:
        for index in (0, 3, 9):
            fully_shard(self.net[index], mesh=self.device_mesh["data_parallel"])
        fully_shard(self, mesh=self.device_mesh["data_parallel"])

    @property
    def is_slimmable(self) -> bool:
        return self.mutator is SlimmableChannelMutator


class ShardedFirst(Sharded):
    """Not prepared before it is sharded: what the callback would do is too late."""

    mutator = None


class Switchable(Sharded):
    mutator = SlimmableChannelMutator


class TensorParallel(Sharded):
    """A layer's channels are spread over the processes."""

    def shard(self) -> None:
        parallelize_module(self.net[9], self.device_mesh["data_parallel"], ColwiseParallel())


def strategy(**options: Any) -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo", **options)


def whole(module: nn.Module) -> dict[str, Any]:
    """Full parameters and this rank's own buffers."""
    parts: dict[str, Any] = dict(module.state_dict())
    return {name: getattr(part, "full_tensor", part.clone)() for name, part in parts.items()}


def facts(done: Run) -> dict[str, Any]:
    shares = {name: float(value) for name, value in done.trainer.logged_metrics.items() if "channels/" in name}
    return {
        "weights": whole(done.module),
        "losses": done.steps.losses,
        "inputs": done.steps.inputs,
        "choices": done.choices,
        "shares": shares,
    }


def refusal(folder: Path, build: type[Sharded]) -> str:
    try:
        run(folder, "random", build=build, strategy=strategy(), devices=2)
    except MisconfigurationException as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for sampler, build in ((None, ShardedFirst), ("max", Sharded), ("random", Sharded), ("sandwich", Sharded)):
        own = strategy(save_distributed_checkpoint=sampler != "random")
        done = run(folder, sampler, build=build, strategy=own, devices=2, max_epochs=1)
        found[f"{sampler} sharded"] = facts(done)
        if sampler == "random":
            done.trainer.save_checkpoint(folder / "whole.ckpt")
        elif sampler == "sandwich":
            done.trainer.save_checkpoint(folder / "shards.ckpt")
    for sampler in ("random", "sandwich"):
        ddp = DDPStrategy(process_group_backend="gloo")
        found[f"{sampler} replicated"] = facts(run(folder, sampler, strategy=ddp, devices=2, max_epochs=1))
    for name in ("whole", "shards"):
        fresh = Sharded()
        again = trainer(folder, ChannelPruning(), strategy=strategy(), devices=2)
        again.validate(fresh, loader(shuffle=False), ckpt_path=folder / f"{name}.ckpt", verbose=False)
        found[f"{name} loaded"] = whole(fresh)
    found["refused"] = {build.__name__: refusal(folder, build) for build in (ShardedFirst, Switchable, TensorParallel)}
    torch.save(found, folder / f"rank{again.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
