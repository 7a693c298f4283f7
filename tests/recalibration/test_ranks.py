"""Two processes on gloo: one run of a script, compared with what is computed here by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_channels import ConfigError, recalibrate_batch_norm
from tests.callbacks.ranks import found_by_ranks, run_ranks
from tests.recalibration.two_ranks import KEPT, batches, net

Found = tuple[dict[str, Any], dict[str, Any]]
Moments = tuple[Tensor, Tensor]
REST = [0, 2, 3, 5, 7]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder: Path = tmp_path_factory.mktemp("ranks")
    run_ranks("tests.recalibration.two_ranks", folder)
    first, second = found_by_ranks(folder)
    return first, second


def moments(x: Tensor) -> Moments:
    """A batch's mean and unbiased variance, channel by channel."""
    x = x.double().transpose(0, 1).flatten(1)
    mean = x.mean(1)
    return mean, ((x - mean[:, None]) ** 2).sum(1) / (x.shape[1] - 1)


def average(each: list[Moments]) -> Moments:
    """Of the batches of one process."""
    return torch.stack([mean for mean, _ in each]).mean(0), torch.stack([var for _, var in each]).mean(0)


def total(counts: list[int], each: list[Moments]) -> Moments:
    """The law of total variance: E[v] + E[m^2] - E[m]^2."""
    n = sum(counts)
    mean = sum(count * m for count, (m, _) in zip(counts, each, strict=True)) / n
    square = sum(count * (v + m**2) for count, (m, v) in zip(counts, each, strict=True)) / n
    return mean, square - mean**2


@torch.no_grad()
def seen_by_norms(x: Tensor, kept: list[int]) -> list[Moments]:
    """Of the inputs of both norms for one batch, at a width."""
    model = net()
    first = F.conv2d(x, model[0].weight[kept], model[0].bias[kept])
    mean, var = first.mean((0, 2, 3), keepdim=True), first.var((0, 2, 3), correction=0, keepdim=True)
    hidden = F.relu((first - mean) / (var + 1e-5).sqrt())  # a fresh norm has weight 1 and bias 0
    return [moments(first), moments(F.conv2d(hidden, model[3].weight[:, kept], model[3].bias))]


def by_hand(counts: list[int], kept: list[int] | None = None) -> list[Moments]:
    kept = list(range(8)) if kept is None else kept
    each = [[seen_by_norms(x, kept) for x in batches(rank, count)] for rank, count in enumerate(counts)]
    ranks = [rank for rank in range(len(counts)) if counts[rank]]
    return [
        total([counts[r] for r in ranks], [average([batch[i] for batch in each[r]]) for r in ranks]) for i in (0, 1)
    ]


def check(state: dict[str, Tensor], norm: str, expected: Moments, channels: Any = slice(None)) -> None:
    for name, value in zip(("running_mean", "running_var"), expected, strict=True):
        torch.testing.assert_close(state[f"{norm}.{name}"][channels].double(), value, rtol=1e-4, atol=1e-4)


def equal(found: Found, key: str) -> None:
    ours, theirs = found[0][key], found[1][key]
    for name in ours:
        if "running" in name:
            assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize(("key", "counts"), [("unequal", [3, 1]), ("limited", [2, 2]), ("none", [2, 0])])
def test_the_statistics_are_the_total_ones_of_all_ranks(found: Found, key: str, counts: list[int]) -> None:
    equal(found, key)
    for norm, expected in zip(("1", "4"), by_hand(counts), strict=True):
        check(found[0][key], norm, expected)


def test_what_the_numbers_tell_apart() -> None:
    each = [average([seen_by_norms(x, list(range(8)))[0] for x in batches(rank, 3 - 2 * rank)]) for rank in range(2)]
    expected = by_hand([3, 1])[0]
    averaged = (3 * each[0][1] + each[1][1]) / 4
    unweighted = total([1, 1], each)
    # channels whose weights add up to nearly nothing see little of the brightness
    assert ((expected[1] - averaged).abs() > 0.1 * expected[1]).sum() >= 4
    assert ((expected[0] - unweighted[0]).abs() > 0.1).sum() >= 4
    assert ((expected[1] - unweighted[1]).abs() > 0.1 * expected[1]).sum() >= 4


def test_nothing_else_changes(found: Found) -> None:
    for rank, mine in enumerate(found):
        assert mine["restored"] == (True, True, True)
        changed = {name for name, value in mine["unequal"].items() if not torch.equal(value, mine["before"][name])}
        assert changed == {f"{norm}.running_{what}" for norm in (1, 4) for what in ("mean", "var")}
        assert int(mine["unequal"]["1.num_batches_tracked"]) == 17 + rank


def test_the_ranks_talk_once(found: Found) -> None:
    assert [mine["collectives"] for mine in found] == [["all_gather"], ["all_gather"]]


def test_each_by_itself(found: Found) -> None:
    for rank, mine in enumerate(found):
        each = [seen_by_norms(x, list(range(8))) for x in batches(rank, 2 + rank)]
        for i, norm in enumerate(("1", "4")):
            check(mine["alone"], norm, average([batch[i] for batch in each]))


def test_a_narrow_width_leaves_the_rest_to_each_rank(found: Found) -> None:
    first, second = by_hand([3, 1], KEPT)
    for rank, mine in enumerate(found):
        check(mine["narrow"], "1", first, KEPT)
        check(mine["narrow"], "4", second)
        for name in ("running_mean", "running_var"):
            assert torch.equal(mine["narrow"][f"1.{name}"][REST], getattr(net(rank)[1], name)[REST])
            assert torch.equal(mine["narrow"][f"1.{name}"][KEPT], found[0]["narrow"][f"1.{name}"][KEPT])


def test_a_norm_counts_where_it_was_called(found: Found) -> None:
    equal(found, "parts")
    state = found[0]["parts"]
    x = [torch.arange(6.0).reshape(3, 2) + rank for rank in range(2)]
    check(state, "norms.0", total([2, 1], [moments(batch) for batch in x]))  # twice on rank 0, once on rank 1
    check(state, "norms.1", moments(x[1]))
    check(state, "norms.2", (torch.full((2,), 9.0).double(), torch.ones(2).double()))


def test_a_wrapped_model_is_unwrapped(found: Found) -> None:
    equal(found, "ddp")
    assert all(torch.equal(found[0]["ddp"][key], value) for key, value in found[0]["unequal"].items())


def test_synchronised_norms_in_step(found: Found) -> None:
    equal(found, "step")
    union = [torch.cat(pair) for pair in zip(batches(0, 2), batches(1, 2), strict=True)]
    check(found[0]["step"], "0", average([moments(x) for x in union]))


def test_synchronised_norms_wait_for_no_one_who_has_nothing(found: Found) -> None:
    equal(found, "out of step")
    union = moments(torch.cat([batches(0, 1)[0], batches(1, 1)[0]]))
    rest = [moments(x) for x in batches(0, 3)[1:]]
    check(found[0]["out of step"], "0", total([3, 1], [average([union, *rest]), union]))
    equal(found, "synchronised none")
    check(found[0]["synchronised none"], "0", average([moments(x) for x in batches(0, 2)]))
    for rank, mine in enumerate(found):
        check(mine["own"], "0", average([moments(x) for x in batches(rank, 2 - rank)]))


def test_errors_reach_all_ranks_and_change_nothing(found: Found) -> None:
    for mine in found:
        assert "ConfigError: there are no batches" in mine["empty"][0]
        assert "ConfigError: the ranks stand at different choices" in mine["differ"][0]
        assert all(mine[key][1] for key in ("empty", "differ", "fails"))
    assert found[0]["fails"][0] == "ChannelsError: the recalibration failed on rank 1; see the error there"
    assert found[1]["fails"][0] == "OSError: no more pictures"


def test_for_a_block_only(found: Found) -> None:
    for mine in found:
        for name, value in mine["inside"].items():
            assert "running" not in name or torch.equal(value, found[0]["unequal"][name])
        assert mine["after"]


def test_a_single_process() -> None:
    model = nn.BatchNorm1d(2)
    with pytest.raises(ConfigError, match="sync=True needs torch"):
        recalibrate_batch_norm(model, [torch.randn(4, 2)], sync=True)
    with pytest.raises(ConfigError, match="sync must be True, False or None, got 'yes'"):
        recalibrate_batch_norm(model, [torch.randn(4, 2)], sync="yes")  # type: ignore[arg-type]
    assert not model.running_mean.any()
    recalibrate_batch_norm(model, [torch.randn(4, 2)], sync=False)
    assert model.running_mean.all()
