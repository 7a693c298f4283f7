"""What lightning_channels makes of a model, checked from outside: its own proof has no part in these comparisons."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from benchmarks._check import (
    TOLERANCE,
    agree,
    cast,
    doubled,
    flops,
    narrowed_share,
    outputs,
    relative,
    sizes,
    train_outputs,
    zero_inputs,
)
from benchmarks._memory import peak_of
from benchmarks._models import Example
from lightning_channels import ChannelMutator, export_subnet
from lightning_channels.units import MutableChannelUnit

__all__ = ["masked", "measure", "warm_up"]

_DOUBLE_BELOW = 200_000_000  # parameters; beyond, double precision takes too much memory

Units = list[MutableChannelUnit]


def warm_up() -> None:
    """Import what is imported late, so that the model to be measured doesn't pay for it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    ChannelMutator().prepare_from_supernet(model, torch.randn(1, 3, 8, 8))


def measure(example: Example, row: dict[str, Any], verify: Any = True) -> None:
    """Prepare a model, narrow it in two ways and compare it with its export and with its masked original.

    Args:
        example: The model, which is changed.
        row: Gets the results one by one, so that those before a failure are kept.
        verify: Passed on to ``prepare_from_supernet``.

    Raises:
        WrongResultError: If two models that must agree don't.
    """
    model, inputs = example.model, example.inputs
    plain = copy.deepcopy(model)
    mutator = ChannelMutator()

    def prepare() -> float:
        begin = time.perf_counter()
        mutator.prepare_from_supernet(model, inputs, verify=verify)
        return time.perf_counter() - begin

    row["prepare_s"], row["peak_bytes"] = peak_of(prepare)
    units = mutator.mutable_units
    row["mutable"], row["units"] = len(units), len(mutator.units)
    row["inexact"] = sum(not unit.exact for unit in units)
    row["refused"] = _refused(mutator)
    agree("prepared model at full width and original", outputs(model, inputs), outputs(plain, inputs), 0.0)
    if not units:
        raise RuntimeError("no unit is mutable")
    with _narrow(units, _half):
        small = export_subnet(model)
    row["reached"], row["kept"] = narrowed_share(sizes(plain), sizes(small))
    row["flops_half"] = flops(small, inputs)
    del small
    row["train"] = _why_not_trained(plain, inputs)
    dtypes = [torch.float32]
    if sum(parameter.numel() for parameter in plain.parameters()) < _DOUBLE_BELOW:
        dtypes.append(torch.float64)
    for dtype in dtypes:
        model.to(dtype)
        plain.to(dtype)
        _compare_exported(model, units, cast(inputs, dtype), row)
    example.inputs = cast(inputs, dtypes[-1])
    _compare_masked(plain, example, [unit for unit in units if unit.exact], row)


def _compare_exported(model: nn.Module, units: Units, inputs: Any, row: dict[str, Any]) -> None:
    dtype = next(model.parameters()).dtype
    for draw in (_half, _random):
        with _narrow(units, draw):
            exported = export_subnet(model)
            what = f"narrowed and exported, {draw.__name__.strip('_')} widths, {dtype}"
            error = agree(f"{what}, eval mode", outputs(model, inputs), outputs(exported, inputs), TOLERANCE[dtype])
            if not row["train"]:
                twice = doubled(inputs)
                own, twin = train_outputs(model, twice), train_outputs(exported, twice)
                error = max(error, agree(f"{what}, train mode", own, twin, TOLERANCE[dtype]))
        row["exported_error"] = max(error, row.get("exported_error", 0.0))


def _compare_masked(plain: nn.Module, example: Example, units: Units, row: dict[str, Any]) -> None:
    """Only the units that claim to be exact are narrowed; the original has the channels that they drop zeroed."""
    row["exact"] = None  # nothing to compare
    if not units:
        return
    dtype = next(plain.parameters()).dtype
    full = outputs(plain, example.inputs, example.heads)
    for draw in (_half, _random):
        with _narrow(units, draw):
            narrow = outputs(example.model, example.inputs, example.heads)
            expected = outputs(masked(plain, units), example.inputs, example.heads)
        what = f"narrowed and masked original, {draw.__name__.strip('_')} widths, {dtype}"
        error = agree(what, narrow, expected, TOLERANCE[dtype])
        row["masked_error"] = max(error, row.get("masked_error", 0.0))
        row["masked_effect"] = _effect(full, expected)
        if not row["masked_effect"] > 100 * TOLERANCE[dtype]:
            raise RuntimeError(f"{what}: dropping channels changed nothing, so nothing was tested")
    row["exact"] = True


def _effect(full: list[torch.Tensor], narrow: list[torch.Tensor]) -> float:
    """How much dropping channels changed the outputs."""
    return max(relative([b], [a]) for a, b in zip(full, narrow, strict=False))


def masked(plain: nn.Module, units: Units) -> nn.Module:
    """The original with the influence of the channels removed that the units don't keep.

    Layers that read such a channel get zeros where they multiply it; a bare parameter, which may be read in any way,
    gets zeros at its place.
    """
    model = copy.deepcopy(plain)
    modules = dict(model.named_modules())
    for unit in units:
        dropped = ~unit.mutable_channel.current_mask
        for channel in unit.channels:
            index = torch.arange(unit.num_channels).repeat_interleave(channel.expand_ratio)
            if channel.index is not None:
                index = torch.tensor(channel.index)
            positions = dropped[index].nonzero().flatten() + channel.start
            if channel.tensor is not None:
                with torch.no_grad():
                    getattr(modules[channel.name], channel.tensor).index_fill_(channel.dim, positions, 0.0)
            elif not channel.is_output_channel:
                zero_inputs(modules[channel.name], positions)
    return model


# --- widths
# -----------------------------------------------------------------------------------------------------------------


def _half(unit: MutableChannelUnit, seed: int) -> list[int]:
    """The first half of each group."""
    inside = unit.num_channels // unit.groups
    return list(range(max(1, inside // 2)))


def _random(unit: MutableChannelUnit, seed: int) -> list[int]:
    """A random number of any channels, never all."""
    rng = random.Random(seed)
    inside = unit.num_channels // unit.groups
    return sorted(rng.sample(range(inside), rng.randint(1, inside - 1)))


@contextmanager
def _narrow(units: Units, draw: Callable[[MutableChannelUnit, int], list[int]]) -> Iterator[None]:
    try:
        for number, unit in enumerate(units):
            inside = unit.num_channels // unit.groups
            kept = draw(unit, number)
            unit.keep([group * inside + position for group in range(unit.groups) for position in kept])
        yield
    finally:
        for unit in units:
            unit.keep(range(unit.num_channels))


def _why_not_trained(plain: nn.Module, inputs: Any) -> str:
    """Why the original itself can't run in train mode on such inputs; empty if it can."""
    try:
        train_outputs(copy.deepcopy(plain), doubled(inputs))
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return ""


def _refused(mutator: ChannelMutator) -> list[dict[str, Any]]:
    """What can't change, the largest first, with the reason."""
    report = mutator.report()
    held = [unit for unit in report.units if not unit.mutable and unit.params > 0.001]
    held.sort(key=lambda unit: -unit.params)
    return [{"unit": unit.name, "share": unit.params, "reason": unit.reason} for unit in held[:12]]
