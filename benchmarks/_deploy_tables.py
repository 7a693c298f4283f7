"""The tables of deployed subnets, and what is asked of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import _results
from benchmarks._deploy import FULL, UNIFORM, speedup, variants
from lightning_channels import recommended_divisor

__all__ = ["Measured", "misses", "recommended", "section"]

LEAST = {1: 1.5, 16: 1.4}
"""By batch: how many times as fast half of the MACs must be, with the divisor that is recommended."""

JUDGED = ("resnet50",)
"""Models of which that is asked; the depthwise convolutions of mobilenet_v2 are bound by memory."""

NEAR = 0.95
"""The recommended divisor must reach so much of the best one's speed, over all models and batches."""

NAMES = {
    "eager": "PyTorch, eager",
    "compile": "PyTorch, torch.compile",
    "onnxruntime": "onnxruntime",
    "cuda": "PyTorch on the GPU, bfloat16, eager",
    "cuda-compile": "PyTorch on the GPU, bfloat16, torch.compile",
}


@dataclass(frozen=True)
class Measured:
    """What one process measured.

    Args:
        model: Of torchvision.
        runtime: What ran it.
        batch: Images at a time.
        seconds: Variant → seconds of each turn.
    """

    model: str
    runtime: str
    batch: int
    seconds: Mapping[str, Sequence[float]]

    def speedup(self, variant: str | int) -> float:
        """How many times as fast as the whole model."""
        return speedup(self.seconds, str(variant))


def recommended(runtime: str) -> int:
    """What ``divisor="auto"`` takes where a runtime of this benchmark is meant."""
    device, _, how = runtime.partition("-")
    if device == "cuda":
        return recommended_divisor(how or "eager", "cuda")
    return recommended_divisor(runtime, "cpu")


def section(
    found: Sequence[Measured],
    left: Mapping[str, Mapping[str, Mapping[str, float]]],
    divisors: Sequence[int],
    target: float,
    where: str,
) -> str:
    """The whole section as Markdown."""
    parts = [f"## Subnets deployed, {target:.0%} of the MACs", where, _introduction(divisors)]
    for runtime in dict.fromkeys(one.runtime for one in found):
        own = [one for one in found if one.runtime == runtime]
        best = f'`divisor="auto"` is {recommended(runtime)} on this machine.'
        parts += [f"### {NAMES[runtime]}", _speeds(own, divisors), best]
    return "\n\n".join([*parts, "What is left, in parts of the whole model:", _left(left, divisors)])


def _introduction(divisors: Sequence[int]) -> str:
    return (
        "How many times as fast as the whole model, both exported: medians of the ratios of turns in one process. "
        f"By divisor the pruner ranks all units together (L1, random weights); *{UNIFORM}* leaves all units the same "
        f"share, in multiples of {max(divisors)}."
    )


def _speeds(found: Sequence[Measured], divisors: Sequence[int]) -> str:
    head = ("model", "batch", "whole, ms", *(f"divisor {divisor}" for divisor in divisors), UNIFORM)
    rows = []
    for one in found:
        whole = 1e3 * statistics.median(one.seconds[FULL])
        speeds = [f"{one.speedup(variant):.2f}" for variant in variants(divisors)[1:]]
        rows.append([one.model, str(one.batch), f"{whole:.1f}", *speeds])
    return _results.table(head, rows)


def _left(left: Mapping[str, Mapping[str, Mapping[str, float]]], divisors: Sequence[int]) -> str:
    rows = []
    for model, by_variant in left.items():
        for variant in variants(divisors)[1:]:
            name = variant if variant == UNIFORM else f"divisor {variant}"
            shares = [f"{by_variant[variant][key]:.3f}" for key in ("macs", "params", "activations")]
            rows.append([f"{model}, {name}", *shares])
    return _results.table(("subnet", "MACs", "parameters", "activations"), rows)


def misses(found: Sequence[Measured], divisors: Sequence[int]) -> Iterator[str]:
    """What is slower than is asked, in words."""
    for one in found:
        least, divisor = LEAST.get(one.batch), recommended(one.runtime)
        if least is None or one.model not in JUDGED or divisor not in divisors:
            continue
        if one.speedup(divisor) < least:
            speed = f"{one.speedup(divisor):.2f} times as fast, not {least:g}"
            yield f"{one.model}, {one.runtime}, batch {one.batch}: {speed}, with the divisor {divisor}"
    for runtime in dict.fromkeys(one.runtime for one in found):
        own = [one for one in found if one.runtime == runtime]
        speeds = {divisor: statistics.geometric_mean(one.speedup(divisor) for one in own) for divisor in divisors}
        best, auto = max(speeds, key=speeds.__getitem__), recommended(runtime)
        if auto in speeds and speeds[auto] < NEAR * speeds[best]:
            yield f"{runtime}: divisor {best} gives {speeds[best]:.2f}, and the recommended {auto} {speeds[auto]:.2f}"
