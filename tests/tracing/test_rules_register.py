"""Rules for operators of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from replay_checks import assert_replayed, mutable, reasons, traced, widths
from torch import Tensor, nn

from lightning_channels import ConfigError
from lightning_channels.tracing import ModuleGraph, Op, register_rule
from lightning_channels.tracing.rewrites import REWRITES
from lightning_channels.tracing.rules import RULES


@torch.library.custom_op("lc_tests::blur", mutates_args=())
def blur(x: Tensor, width: int) -> Tensor:
    """A mean over neighbours along the last dim, channel by channel."""
    return torch.nn.functional.avg_pool1d(x, width, 1, width // 2)


@torch.library.custom_op("lc_tests::scale", mutates_args=())
def scale(x: Tensor, by: Tensor) -> Tensor:
    return x * by


@torch.library.custom_op("lc_tests::heads", mutates_args=())
def heads(x: Tensor, count: int) -> Tensor:
    """(N, C, L) to (N, count, C / count, L)."""
    return x.unflatten(1, (count, -1)).clone()


@torch.library.custom_op("lc_tests::mm", mutates_args=())
def mm(x: Tensor, y: Tensor) -> Tensor:
    """Named as one of PyTorch's own, and something else."""
    return x.flip(1) + y.flip(0).sum()


class Net(nn.Module):
    def __init__(self, middle: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 12, 1), nn.Conv1d(12, 4, 1)
        self.gain = nn.Parameter(torch.rand(12, 1))
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.middle(self, self.a(x))).relu()


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    """What a test registers goes with it."""
    rules, rewrites = dict(RULES), dict(REWRITES)
    yield
    for table, before in ((RULES, rules), (REWRITES, rewrites)):
        table.clear()
        table.update(before)  # type: ignore[arg-type]


INPUT = torch.randn(2, 3, 8, dtype=torch.float64)


def trace(middle: Any) -> ModuleGraph:
    return traced(Net(middle), INPUT)[0]


def test_an_operator_without_a_rule_is_pinned_and_named() -> None:
    graph = trace(lambda net, x: torch.ops.lc_tests.blur(x, 3))
    assert widths(mutable(graph)) == []
    assert graph.unruled == [("blur", "")]
    assert any("reaches an operator without a rule (blur in the model" in str(group.pin) for group in graph.groups)


def test_a_rule_in_one_line() -> None:
    @register_rule("lc_tests::blur")
    def rule(walk: Any, op: Op) -> None:
        walk.passes(op, 0, 1)

    graph = trace(lambda net, x: torch.ops.lc_tests.blur(x, 3))
    assert widths(mutable(graph)) == [(12, 1)]
    assert graph.unruled == []
    assert_replayed(graph, INPUT)


def test_a_rule_for_operands_that_meet() -> None:
    @register_rule("lc_tests::scale")
    def rule(walk: Any, op: Op) -> None:
        walk.pointwise(op)

    graph = trace(lambda net, x: torch.ops.lc_tests.scale(x, net.gain))
    assert widths(mutable(graph)) == [(12, 1)]
    (group,) = (group for group in graph.groups if group.pin is None)
    assert "gain" in {run.side.key for run in group.runs}
    assert_replayed(graph, INPUT)


def test_labels_along_other_dims_and_of_other_operands_are_pinned() -> None:
    @register_rule("lc_tests::scale")
    def rule(walk: Any, op: Op) -> None:
        walk.passes(op, 0)

    graph = trace(lambda net, x: torch.ops.lc_tests.scale(x, net.gain))
    assert widths(mutable(graph)) == []
    mixed = [
        reason for reason in reasons(graph) if "lies along a dimension that the operator mixes (scale in" in reason
    ]
    assert len(mixed) == 2  # the channels, and the gains


def test_a_rule_with_a_rewrite_for_the_integer_that_counts_channels() -> None:
    def rewrite(replay: Any, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
        (out,) = op.outputs
        return op.func(args[0], replay.sizes(out)[1])

    @register_rule("lc_tests::heads", rewrite=rewrite)
    def rule(walk: Any, op: Op) -> None:
        walk.set(
            op.outputs[0],
            [m.unsqueeze(2) if m.shape[1] == 1 else m.unflatten(1, (op.args[1], -1)) for m in walk.get(op.args[0])],
        )
        for labels in walk.get(op.outputs[0]):
            walk.labels.unite(labels, labels[:, :, :1])  # heads go as a whole

    graph = trace(lambda net, x: torch.ops.lc_tests.heads(x, 4).flatten(1, 2))
    assert widths(mutable(graph)) == [(4, 1)]
    assert_replayed(graph, INPUT)


def test_names_of_other_libraries_are_not_pytorchs() -> None:
    graph = trace(lambda net, x: torch.ops.lc_tests.mm(x, net.gain))
    assert graph.unruled == [("mm", "")]
    assert widths(mutable(graph)) == []


def test_a_rule_that_says_something_impossible() -> None:
    @register_rule("lc_tests::heads")
    def rule(walk: Any, op: Op) -> None:
        walk.set_all(op, walk.get(op.args[0]))

    with pytest.raises(ValueError, match=r"labels of shape \[1, 12, 1\] don't fit a tensor of shape \[2, 4, 3, 8\]"):
        trace(lambda net, x: torch.ops.lc_tests.heads(x, 4).flatten(1, 2))

    @register_rule("lc_tests::heads")
    def other(walk: Any, op: Op) -> None:
        walk.passes(op, 0, 1)

    graph = trace(lambda net, x: torch.ops.lc_tests.heads(x, 4).flatten(1, 2))
    assert any("gives a result of another shape than its rule says" in str(group.pin) for group in graph.groups)


def test_a_rule_of_ours_that_fails_pins_and_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(walk: Any, op: Op) -> None:
        raise IndexError("too many\ndims")

    monkeypatch.setitem(RULES, "tanh", broken)
    graph = trace(lambda net, x: x.tanh())
    assert widths(mutable(graph)) == []
    assert graph.unruled == [("tanh", "")]
    expected = "reaches an operator that its rule cannot follow: IndexError: too many dims (tanh in the model"
    assert any(expected in reason for reason in reasons(graph))


@pytest.mark.parametrize("name", [None, "", "my op", "a::b::c", torch.relu])
def test_bad_names(name: Any) -> None:
    with pytest.raises(ConfigError, match='register_rule takes the name of an operator such as "mylib::my_op", got'):
        register_rule(name)


def test_bad_rules() -> None:
    with pytest.raises(ConfigError, match=r"the rule for mylib::op must be a function of \(walk, op\), got 3"):
        register_rule("mylib::op")(3)  # type: ignore[type-var]
