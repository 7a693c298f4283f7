"""What resources of any choice this library counts, against torch's counter on the exported model."""

from __future__ import annotations

import random
import time
from typing import Any

import torch

from benchmarks._check import WrongResultError, flops
from benchmarks._models import Example
from benchmarks._ours import warm_up
from lightning_channels import ChannelMutator, Resources, export_subnet

__all__ = ["measure", "warm_up"]

_CHOICES, _AT_ONCE = 3, 2000


def measure(example: Example, row: dict[str, Any]) -> None:
    """Compare FLOPs and parameters at full width and at random choices, and time how fast choices are counted.

    Args:
        example: The model, which is changed.
        row: Gets the results.

    Raises:
        WrongResultError: If a count differs.
    """
    model, inputs = example.model, example.inputs
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, inputs)
    begin = time.perf_counter()
    resources = Resources(mutator)
    row["made_s"], row["units"] = time.perf_counter() - begin, len(resources.units)
    rng = random.Random(0)
    torch.backends.mha.set_fastpath_enabled(False)  # torch's counter misses its FLOPs
    for number in range(_CHOICES + 1):
        choices = mutator.sample_choices("random" if number else "max", rng)
        counted = resources.count(choices)
        mutator.set_choices(choices)
        small = export_subnet(model)
        expected = {"flops": flops(small, inputs), "params": sum(p.numel() for p in small.parameters())}
        for name, value in expected.items():
            if counted.get(name, 0) != value:
                raise WrongResultError(f"{name} at choice {number}: {counted.get(name, 0):,}, and torch says {value:,}")
    numbers = (torch.rand(_AT_ONCE, len(resources.units)) * resources.full).long().clamp_min(1)
    begin = time.perf_counter()
    resources.measure(numbers)
    row["choices_per_s"] = _AT_ONCE / (time.perf_counter() - begin)
