"""How a step is made: precision, accumulation, clipping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins.precision import MixedPrecision

from tests.trainer.twins import assert_random_works, assert_twins


def half() -> MixedPrecision:
    """``precision="16-mixed"``, which a trainer on the CPU would turn into bfloat16."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3))


PRECISIONS: dict[str, dict[str, Any]] = {
    "32-true": {},
    "64-true": {"precision": "64-true"},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "16-mixed": {"plugins": half},
}
STEPS: dict[str, dict[str, Any]] = {
    "each batch": {},
    "every third": {"accumulate_grad_batches": 3},
    "uneven": {"accumulate_grad_batches": 4},
    "norm": {"gradient_clip_val": 0.05},
    "value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "all at once": {"accumulate_grad_batches": 4, "gradient_clip_val": 0.05},
}


@pytest.mark.parametrize("options", PRECISIONS.values(), ids=PRECISIONS)
def test_precision(tmp_path: Path, options: dict[str, Any]) -> None:
    assert_twins(tmp_path, **options)
    assert_random_works(tmp_path, **options)


@pytest.mark.parametrize("options", list(STEPS.values())[1:], ids=list(STEPS)[1:])
def test_accumulation_and_clipping(tmp_path: Path, options: dict[str, Any]) -> None:
    assert_twins(tmp_path, **options)
    assert_random_works(tmp_path, **options)


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "16-mixed"])
def test_accumulation_and_clipping_in_other_precisions(tmp_path: Path, precision: str) -> None:
    options = {**STEPS["all at once"], **PRECISIONS[precision]}
    assert_twins(tmp_path, **options)
    assert_random_works(tmp_path, **options)


def test_a_schedule_of_accumulation(tmp_path: Path) -> None:
    def scheduler() -> list[Any]:
        return [GradientAccumulationScheduler({0: 2, 1: 4})]

    assert_twins(tmp_path, callbacks=scheduler)
    assert_random_works(tmp_path, callbacks=scheduler)
