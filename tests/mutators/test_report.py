"""The report: what can change, what can't, and why."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import Everything, Toy, images

from lightning_channels import ChannelMutator
from lightning_channels.errors import ConfigError
from lightning_channels.mutators.report_table import share
from lightning_channels.tracing import register_rule

HERE = r"(.*/)?test_report\.py:\d+"


@torch.library.custom_op("lightning_channels_report_tests::scan", mutates_args=())
def scan(x: Tensor) -> Tensor:
    return x.cumsum(-1)


class Partly(nn.Module):
    """One unit that can change, one that reaches an operator without a rule, and parameters in no unit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 2)
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.ops.lightning_channels_report_tests.scan(self.b(torch.relu(self.a(x))))
        return self.c(hidden) * self.temperature


def prepared(model: nn.Module, inputs: Any, **kwargs: Any) -> ChannelMutator:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, inputs, **kwargs)
    return mutator


def test_the_figures() -> None:
    mutator = prepared(Partly(), torch.randn(1, 4))
    report = mutator.report()
    by_name = {unit.name: unit for unit in report.units}
    total = 30 + 56 + 18 + 1
    free = by_name["a_(0, 6)_6"]
    assert (free.mutable, free.reason, free.num_channels, free.exact, free.groups) == (True, "", 6, True, 1)
    assert (free.op, free.module, free.line, free.inexact) == ("", "", "", "")
    assert free.params == pytest.approx((30 + 48) / total)  # its own weight and bias, and the weight that reads it
    assert free.flops == pytest.approx((24 + 48) / (24 + 48 + 16))
    assert report.covered == pytest.approx(78 / total)
    assert report.left_at_half == pytest.approx((total - 3 * (4 + 1) - 3 * 8) / total)
    assert report.proven


def test_what_cannot_change_names_operator_module_and_line() -> None:
    report = prepared(Partly(), torch.randn(1, 4)).report()
    held = next(unit for unit in report.units if unit.name == "b_(0, 8)_8")
    assert held.reason.startswith("reaches an operator without a rule (")
    assert held.op.endswith("scan")
    assert held.module == ""  # the model itself runs it
    assert re.fullmatch(HERE, held.line)
    (op,) = report.unruled
    assert (op.op, op.module, op.line, op.units) == (held.op, "", held.line, ("b_(0, 8)_8",))


def test_parameters_in_no_unit() -> None:
    report = prepared(Partly(), torch.randn(1, 4)).report()
    (parameter,) = report.unassigned
    assert (parameter.name, parameter.reason) == ("temperature", "it is a single number")
    assert parameter.params == pytest.approx(1 / 105)


def test_plain_data() -> None:
    for model, inputs in ((Partly(), torch.randn(1, 4)), (Toy(), images())):
        data = prepared(model, inputs).report().to_dict()
        assert json.loads(json.dumps(data)) == data
        assert {"units", "proof", "covered", "left_at_half", "unassigned", "unruled", "attentions"} == set(data)
        assert {field.name for field in dataclasses.fields(type(prepared(Toy(), images()).report().units[0]))} == set(
            data["units"][0]
        )


def test_reporting_leaves_the_widths_alone() -> None:
    mutator = prepared(Toy(), images())
    before = mutator.report()
    unit = mutator.mutable_units[0]
    unit.keep([1, 3, 6])
    assert mutator.report() == before
    assert unit.mutable_channel.kept.tolist() == [1, 3, 6]


class Repeats(nn.Module):
    """The same reason many times, and names longer than a line."""

    def __init__(self) -> None:
        super().__init__()
        part = "a_part_with_a_name_that_is_much_longer_than_anybody_would_ever_want_to_read_in_a_table"
        self.parts = nn.ModuleList(nn.ModuleDict({part: nn.Linear(6, 6)}) for _ in range(9))
        self.norm, self.wide, self.head = nn.LayerNorm(6), nn.Linear(6, 64), nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            (layer,) = part.values()
            x = torch.ops.lightning_channels_report_tests.scan(layer(x))
        return self.head(torch.relu(self.wide(self.norm(x))))


def test_the_table_fits_its_width_and_says_a_reason_once() -> None:
    report = prepared(Repeats(), torch.randn(2, 6)).report()
    text = str(report)
    lines = text.splitlines()
    assert max(len(line) for line in lines if "a_part_with" not in line) <= 100
    assert len(re.findall(r"^\[\d+\] reaches an operator without a rule", text, re.MULTILINE)) == 1
    assert text.count(" more") >= 1  # the modules that ran it are counted, not listed
    rows = lines[lines.index(next(line for line in lines if line.startswith("unit"))) :]
    figures = [line for line in rows[: rows.index("")] if "%" in line]
    assert len({re.search(r"\d+ +(yes|no)", line).start(1) >= 0 for line in figures}) == 1  # type: ignore[union-attr]
    assert len({line.index("%") for line in figures}) == 1  # columns are aligned, whatever the names


def test_the_table() -> None:
    lines = str(prepared(Toy(), images()).report()).splitlines()
    assert lines[0].startswith("2 of 4 units are mutable; 94.6% of the parameters are in one, ")
    assert lines[1].startswith("proven in eval and train mode against ")
    assert lines[3].split() == ["unit", "channels", "mutable", "exact", "params", "FLOPs", "notes"]
    assert lines[4].startswith("net.conv0_(0, 3)_3")
    assert lines[4].endswith("[1]")
    assert lines[5].split()[:5] == ["net.conv0_(0,", "8)_8", "8", "yes", "yes"]
    assert re.match(r"\[1\] meets the model's input: convolution in net\.conv0, ", lines[9])


def test_groups_and_inexact_units() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 12, 1), nn.GroupNorm(3, 12), nn.Conv2d(12, 8, 1, groups=2)
            self.c = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.norm(self.a(x))))

    mutator = prepared(Normed(), torch.randn(2, 3, 4, 4))
    unit = next(unit for unit in mutator.report().units if unit.mutable)
    assert unit.groups == mutator.name2unit[unit.name].groups > 1
    assert not unit.exact
    assert "norm runs over the channels" in unit.inexact
    assert f"not exact: {unit.inexact}" in str(mutator.report())
    assert re.search(r"^unit +channels +groups +mutable", str(mutator.report()), re.MULTILINE)
    rebuilt = ChannelMutator.from_structure(mutator.structure())
    rebuilt.prepare_from_supernet(Normed())
    assert next(u for u in rebuilt.report().units if u.name == unit.name).inexact == unit.inexact


def test_how_it_was_proven() -> None:
    report = prepared(Toy(), images()).report()
    assert report.proven
    assert report.proof is not None
    assert report.proof.mode == "default"
    assert f"{report.proof.runs} runs" in str(report)
    full = prepared(Toy(), images(), verify="full").report()
    assert full.proof is not None
    assert full.proof.mode == "full"
    assert "each unit alone as well" in str(full)


def test_another_kind_of_proof_is_refused() -> None:
    model = Toy()
    with pytest.raises(ConfigError, match=r"verify must be true or false, or 'full', got 'all'"):
        prepared(model, images(), verify="all")
    assert type(model.head) is nn.Linear


def test_what_was_not_proven_says_so() -> None:
    mutator = prepared(Everything(), torch.randn(2, 3, 2, 4, 4), verify=False)
    assert not mutator.report().proven
    assert "not proven: prepared with verify=False" in str(mutator.report())
    rebuilt = ChannelMutator.from_structure(mutator.structure())
    rebuilt.prepare_from_supernet(Everything())
    assert not rebuilt.report().proven
    assert "not proven: the units come from a template" in str(rebuilt.report())
    assert [unit.groups for unit in rebuilt.report().units] == [unit.groups for unit in mutator.report().units]
    assert {unit.groups for unit in rebuilt.report().units} == {1, 2, 3}


def test_train_mode_that_fails_says_so() -> None:
    class EvalOnly(Toy):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise ValueError("needs targets")
            return super().forward(x)

    report = prepared(EvalOnly(), images()).report()
    assert report.proof is not None
    assert not report.proof.train
    assert "needs targets" in report.proof.train_error
    assert re.search(r"; not in train mode: .*needs targets", " ".join(str(report).split()))


def test_a_rule_of_the_users_own_ends_the_refusal() -> None:
    assert prepared(Partly(), torch.randn(1, 4)).report().unruled
    from lightning_channels.tracing.rules.table import RULES

    register_rule("lightning_channels_report_tests::scan")(lambda walk, op: walk.passes(op, 0))
    try:
        assert not prepared(Partly(), torch.randn(1, 4)).report().unruled
    finally:
        RULES.pop("lightning_channels_report_tests::scan")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0%"), (0.0004, "<0.1%"), (0.1234, "12.3%"), (0.9996, "99.9%"), (1.0, "100.0%"), (0.0005, "0.1%")],
)
def test_shares_never_round_to_nothing_or_all(value: float, text: str) -> None:
    assert share(value) == text
