"""The sandwich rule with in-place distillation, against the same training written out in plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from tests.callbacks.ranks import run_ranks
from tests.callbacks.sandwich import (
    BATCHES,
    SANDWICH,
    ByHand,
    Plain,
    PlainByHand,
    both,
    check,
    drawn,
    fit,
    hard,
    rounded_alike,
    soft,
    squares,
    tempered,
)


@pytest.mark.parametrize("memory", ["fast", "lean"])
@pytest.mark.parametrize(
    ("distillation", "term"),
    [
        (None, soft),
        ({"temperature": 3.0}, tempered),
        ({"soft": 0.0, "hard": 1.0}, hard),
        ({"soft": 0.5, "hard": 2.0}, both),
        (squares, squares),
        ({"loss": squares, "outputs": lambda outputs: outputs}, squares),
    ],
    ids=["soft", "temperature", "hard", "both", "own", "picked"],
)
def test_each_loss_is_that_of_plain_pytorch(tmp_path: Path, memory: str, distillation: Any, term: Any) -> None:
    # in double precision: what a sum's order rounds otherwise depends on the CPU
    module, pruning = fit(tmp_path, distillation=distillation, memory=memory, precision="64-true")
    hand = ByHand(term)
    hand.net.double()
    check(module, hand.train(drawn(pruning), 2, [(images.double(), labels) for images, labels in BATCHES]))


@pytest.mark.parametrize("memory", ["fast", "lean"])
@pytest.mark.parametrize(
    ("options", "hand"),
    [
        ({"accumulate_grad_batches": 4}, {"accumulate": 4}),
        ({"gradient_clip_val": 0.05}, {"clip": lambda p: nn.utils.clip_grad_norm_(p, 0.05)}),
        (
            {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
            {"clip": lambda p: nn.utils.clip_grad_value_(p, 0.01)},
        ),
        (
            {"accumulate_grad_batches": 4, "gradient_clip_val": 0.05},
            {"accumulate": 4, "clip": lambda p: nn.utils.clip_grad_norm_(p, 0.05)},
        ),
    ],
    ids=["uneven accumulation", "norm", "value", "accumulated norm"],
)
def test_accumulation_and_clipping(tmp_path: Path, memory: str, options: Any, hand: Any) -> None:
    module, pruning = fit(tmp_path, memory=memory, **options)
    check(module, ByHand(soft, **hand).train(drawn(pruning), 2, BATCHES))


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_the_average(tmp_path: Path, memory: str) -> None:
    module, pruning = fit(tmp_path, memory=memory, sampler={**SANDWICH, "reduction": "mean"})
    check(module, ByHand(soft, mean=True).train(drawn(pruning), 2, BATCHES))


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_bfloat16(tmp_path: Path, memory: str) -> None:
    module, pruning = fit(tmp_path, memory=memory, precision="bf16-mixed")

    def autocast() -> Any:
        return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)  # as Lightning has it

    check(module, ByHand(rounded_alike, autocast=autocast).train(drawn(pruning), 2, BATCHES))


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_float16_with_a_scaler(tmp_path: Path, memory: str) -> None:
    def scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)

    def autocast() -> Any:
        return torch.autocast("cpu", torch.float16, cache_enabled=False)

    own = scaler()
    plugin = MixedPrecision("16-mixed", "cpu", own)
    module, pruning = fit(tmp_path, memory=memory, plugins=plugin)
    by_hand = ByHand(rounded_alike, autocast=autocast, scaler=scaler())
    check(module, by_hand.train(drawn(pruning), 2, BATCHES))
    assert own.get_scale() == by_hand.scaler.get_scale() > 2.0**10


def test_two_processes(tmp_path: Path) -> None:
    from tests.callbacks.sandwich_ddp import RUNS

    run_ranks("tests.callbacks.sandwich_ddp", tmp_path)
    _, pruning = fit(tmp_path, Plain(), epochs=1)
    for accumulate in (1, 2):
        expected = PlainByHand(soft, accumulate=accumulate).train(drawn(pruning), 2, BATCHES).state_dict()
        for name, memory, own in RUNS:
            if own != accumulate:
                continue
            ranks = [torch.load(tmp_path / f"{name}-{memory}-{own}-{rank}.pt") for rank in (0, 1)]
            for key, value in expected.items():
                assert torch.equal(ranks[0][key], ranks[1][key]), (name, memory, own, key)
                error = float((ranks[0][key] - value).abs().max() / value.abs().max())
                assert error <= 1e-5, (name, memory, own, key, error)

    check_validated([torch.load(tmp_path / f"validated-{rank}.pt", weights_only=False) for rank in (0, 1)])


def check_validated(ranks: list[dict[str, Any]]) -> None:
    """Validation had the statistics of both ranks' batches: by the law of total variance, of the first convolution."""
    from tests.callbacks.sandwich_ddp import halves

    assert torch.equal(ranks[0]["mean"], ranks[1]["mean"])
    assert torch.equal(ranks[0]["var"], ranks[1]["var"])
    weight, bias = (ranks[0]["weights"][f"0.{name}"][:2] for name in ("weight", "bias"))
    means, variances = [], []
    for rank in (0, 1):
        outputs = [F.conv2d(x, weight, bias, padding=1) for x, _ in list(halves(rank))[:2]]
        means.append(torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0))
        variances.append(torch.stack([out.transpose(0, 1).flatten(1).var(1) for out in outputs]).mean(0))
    mean = (means[0] + means[1]) / 2
    var = sum(own + (m - mean) ** 2 for own, m in zip(variances, means, strict=True)) / 2
    assert_close(ranks[0]["mean"][:2], mean)
    assert_close(ranks[0]["var"][:2], var)
    assert {"val_loss", "val_loss/max", "val_loss/0.25"} <= set(ranks[0]["metrics"])
