"""A step at one width against a plain model of that width: what is measured."""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import json
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parameter import Buffer, Parameter
from torch.utils.data import DataLoader

from benchmarks._step import Classifier, Measurement, Steps, pairs, sgd
from lightning_channels import ChannelMutator, ChannelPruning

__all__ = ["MEASUREMENTS"]


def _full(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    models = [steps.module.net, steps.plain]
    return {"pairs": pairs(steps.step(models[0]), steps.step(models[1]), models, arguments)}


def _half(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    half = steps.half()
    models = [steps.module.net, steps.twin(half)]
    steps.mutator.set_choices(half)
    return {"pairs": pairs(steps.step(models[0]), steps.step(models[1]), models, arguments)}


class _Whole(nn.Module):
    """An exported model with gradients as they are where parameters stay whole: zeros, but for the exported part.

    Args:
        net: The exported model.
        original: What it was exported from.
    """

    def __init__(self, net: nn.Module, original: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.gradients: dict[str, Tensor] = {}
        full = {name: parameter.shape for name, parameter in original.named_parameters()}
        for name, parameter in net.named_parameters():
            parameter.register_post_accumulate_grad_hook(functools.partial(self._put, name=name, size=full[name]))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.net(images)
        return out

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.gradients.clear()

    def _put(self, parameter: Tensor, name: str, size: torch.Size) -> None:
        gradient = parameter.grad
        assert gradient is not None
        whole = self.gradients[name] = gradient.new_zeros(size)
        whole.as_strided(gradient.shape, whole.stride()).copy_(gradient)
        parameter.grad = None


def _floor(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    half = steps.half()
    models = [_Whole(steps.twin(half), steps.plain), steps.twin(half)]
    return {"pairs": pairs(steps.step(models[0]), steps.step(models[1]), models, arguments)}


def _half_floor(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    half = steps.half()
    models = [steps.module.net, _Whole(steps.twin(half), steps.plain)]
    steps.mutator.set_choices(half)
    return {"pairs": pairs(steps.step(models[0]), steps.step(models[1]), models, arguments)}


def _optimizer(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    """SGD with momentum: ours has full-size tensors at any width."""
    half = steps.half()
    models = [steps.module.net, steps.twin(half)]
    steps.mutator.set_choices(half)
    for model in models:
        steps.step(model)()
    own, theirs = (sgd(model) for model in models)
    return {"pairs": pairs(own.step, theirs.step, [], arguments)}


def _draw(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds to sample a choice for each unit, and to set them."""

    def took() -> float:
        begin = time.perf_counter()
        steps.mutator.set_choices(steps.mutator.sample_choices())
        return time.perf_counter() - begin

    return {"seconds": [took() for _ in range(20 + 30 * arguments.repeat)][20:]}


# --- through the Trainer
# -----------------------------------------------------------------------------------------------------------------

_STEPS = 3
"""Of a fit, without its first, which warms up."""


class _Watch(Callback):
    """Seconds from a batch's start to the end of its backward pass; to be put before all other callbacks."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begin = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._begin = time.perf_counter()

    def on_after_backward(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._begin)


def _fit(steps: Steps, module: Classifier, count: int, *callbacks: Callback) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=count,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader([(steps.images, steps.labels)] * count, batch_size=None))
    return trainer


def _seconds(steps: Steps, module: Classifier, *callbacks: Callback) -> float:
    watch = _Watch()
    _fit(steps, module, _STEPS + 1, watch, *callbacks)
    return statistics.median(watch.seconds[1:])


def _trainer(width: Literal["full", "half"]) -> Measurement:
    def measure(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
        choices = steps.half() if width == "half" else steps.full()
        pruning = ChannelPruning(steps.mutator, choices=choices, module="net")
        twin = Classifier(steps.twin(choices) if width == "half" else steps.plain)
        found = []
        for turn in range(-1, arguments.repeat):
            theirs = _seconds(steps, twin) if turn % 2 else 0.0
            own = _seconds(steps, steps.module, pruning)
            found.append((own, theirs or _seconds(steps, twin)))
        return {"pairs": {"wall": found[1:]}}

    return measure


# --- all-reduce
# -----------------------------------------------------------------------------------------------------------------


def _reduce(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    """All-reduce of all gradients between two processes: ours are full-size at any width."""
    models = [steps.plain, steps.twin(steps.half())]
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    with tempfile.TemporaryDirectory() as folder:
        given = (sizes, arguments.repeat, folder)
        multiprocessing.spawn(_reduce_rank, given, nprocs=2)  # type: ignore[no-untyped-call]
        return {"pairs": {"wall": json.loads((Path(folder) / "pairs.json").read_text())}}


def _reduce_rank(rank: int, sizes: list[int], repeat: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    gradients = [torch.zeros(size) for size in sizes]
    found = []
    for _ in range(repeat + 1):
        took = []
        for gradient in gradients:
            distributed.barrier()
            begin = time.perf_counter()
            distributed.all_reduce(gradient)
            took.append(time.perf_counter() - begin)
        found.append(took)
    if rank == 0:
        (Path(folder) / "pairs.json").write_text(json.dumps(found[1:]))
    distributed.destroy_process_group()


# --- what is kept
# -----------------------------------------------------------------------------------------------------------------


def _kept(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    """Bytes of a plain model, Python objects included, and of its checkpoint; and of ours."""
    row = _memory(steps)
    with tempfile.TemporaryDirectory() as folder:
        plain, own = (Path(folder) / name for name in ("plain.ckpt", "own.ckpt"))
        _fit(steps, Classifier(steps.plain), 1).save_checkpoint(plain)
        _fit(steps, steps.module, 1, ChannelPruning(steps.mutator, module="net")).save_checkpoint(own)
        return row | {"checkpoint": [own.stat().st_size, plain.stat().st_size]}


def _memory(steps: Steps) -> dict[str, Any]:
    gc.collect()
    tracemalloc.start()
    try:
        model = copy.deepcopy(steps.plain)
        tensors = _tensors()
        plain = tracemalloc.get_traced_memory()[0]
        mutator = ChannelMutator()
        mutator.prepare_from_supernet(model, steps.images[:1])
        steps.step(model)()
        model.zero_grad(set_to_none=True)
        more = _tensors() - tensors
        own = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    return {"memory": [size + own + more, size + plain]}


def _tensors() -> int:
    """Bytes of all tensors of this process; what it leaves is alive, and no cache of Python's."""
    # of the interpreter, for all types: it holds the last 4096 names that were looked up, and who looks up a name that
    # was made after another in its place seems to take memory; PyTorch makes them anew in every call
    sys._clear_type_cache()
    gc.collect()
    # others have no size yet, or none at all: lazy ones, fake ones
    tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, Parameter, Buffer)]
    found = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in found}.values())


MEASUREMENTS: dict[str, Measurement] = {
    "full": _full,
    "half": _half,
    "half-returned": _half,  # in a process whose heap gives back what is freed
    "floor": _floor,
    "half-floor": _half_floor,
    "trainer-full": _trainer("full"),
    "trainer-half": _trainer("half"),
    "optimizer": _optimizer,
    "reduce": _reduce,
    "draw": _draw,
    "kept": _kept,
}
"""Pairs of times, ours and the plain one's; seconds; and pairs of bytes."""
