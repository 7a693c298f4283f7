"""Two processes under DDP, with accumulated gradients, have the scores of one that sees all batches."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.callbacks.ranks import found_by_ranks, run_ranks
from tests.criteria.ranks import ACCUMULATED, STEPS


def test_ranks_have_the_scores_of_all_batches(tmp_path: Path) -> None:
    run_ranks("tests.criteria.ranks", tmp_path)
    first, second = found_by_ranks(tmp_path)
    for name in ("taylor", "fisher"):
        one, other, alone = first["found"][name], second["found"][name], first["alone"][name]
        assert one["passes"] == other["passes"] == alone["passes"] == 2 * STEPS * ACCUMULATED
        for unit, scores in one["scores"].items():
            assert torch.equal(scores, other["scores"][unit])
            assert torch.allclose(scores, alone["scores"][unit], rtol=1e-10)
