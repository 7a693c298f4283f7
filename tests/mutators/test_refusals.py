"""What is refused says why: the rest of the network stays prunable, and computes the right thing when it is narrow."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from invariants import check_gradients, check_masked
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from lightning_channels import ChannelMutator, export_subnet
from lightning_channels.errors import ChannelsError, PrepareError, TraceError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]
FREE = {"front.0_(0, 10)_10", "back.0_(0, 12)_12"}
"""The units that have nothing to do with what stands in the middle."""


class Net(nn.Module):
    """Two units that are free, and between them something difficult that the channels of two more meet."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 8))
        self.middle = middle
        self.back = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.middle(self.front(x)))


class Sequence(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x[:, None])[0][:, 0]


class Step(nn.Module):
    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell = kind(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell(x)
        return state[0] if isinstance(state, tuple) else state


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class Checkpointed(Two):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Any:
        return checkpoint(super().forward, x, use_reentrant=self.reentrant)


@torch.library.custom_op("lightning_channels_tests::twist", mutates_args=())
def twist(x: Tensor) -> Tensor:
    return x.flip(-1) * 2


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return torch.ops.lightning_channels_tests.twist(x)


class Branch(nn.Module):
    """Takes its way by the value of one channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x[0, 0]) > 0 else x * 3


class Choose(nn.Module):
    """Which channels it returns depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x.gather(1, x.argsort(1))


@dataclass(frozen=True)
class Case:
    """``reason`` of a unit that can't change, with the op, module and line that it names."""

    middle: Callable[[], nn.Module]
    reason: str
    op: str = r"\w+"
    module: str = "middle"
    dtype: torch.dtype = torch.float64


CASES = {
    "LSTM": Case(lambda: Sequence(nn.LSTM), "LSTM can't be narrowed: it reads flattened", module="middle.rnn"),
    "GRU": Case(lambda: Sequence(nn.GRU), "GRU can't be narrowed: it reads flattened", module="middle.rnn"),
    "RNN": Case(lambda: Sequence(nn.RNN), "RNN can't be narrowed: it reads flattened", module="middle.rnn"),
    "LSTMCell": Case(lambda: Step(nn.LSTMCell), "LSTMCell can't be narrowed: it reads", module="middle.cell"),
    "GRUCell": Case(lambda: Step(nn.GRUCell), "GRUCell can't be narrowed: it reads", module="middle.cell"),
    "weight_norm": Case(lambda: weight_norm(nn.Linear(8, 8)), "its weight is computed by a hook"),
    "spectral_norm": Case(lambda: spectral_norm(nn.Linear(8, 8)), "its weight is computed by a hook"),
    "parametrized weight_norm": Case(
        lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
        "it is parametrized, so its weight is computed",
        module="middle.parametrizations.weight.0",
    ),
    "parametrized spectral_norm": Case(
        lambda: parametrizations.spectral_norm(nn.Linear(8, 8)),
        "it is parametrized, so its weight is computed",
        module=".*",
    ),
    "orthogonal": Case(
        lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
        "it is parametrized, so its weight is computed",
        module=".*",
    ),
    "custom op": Case(Custom, "reaches an operator without a rule", op="(lightning_channels_tests::)?twist"),
    "TorchScript": Case(
        lambda: torch.jit.script(Two()), "can't be narrowed: it is compiled by TorchScript", dtype=torch.float32
    ),
    "traced TorchScript": Case(
        lambda: torch.jit.trace(Two(), torch.ones(1, 8)), "can't be narrowed: it is compiled by", dtype=torch.float32
    ),
    "chosen by data": Case(Choose, "sort runs along it", op="sort"),
}


def build(case: Case) -> nn.Module:
    """The same values at each call, also of modules that can't be copied."""
    torch.manual_seed(0)
    net = Net(case.middle())
    return (net if case.dtype == torch.float32 else net.double()).eval()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_rest_stays_prunable_and_right(case: Case) -> None:
    plain, net = build(case), build(case)
    x = torch.randn(5, 4, dtype=case.dtype, generator=torch.Generator().manual_seed(1))
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net, x)
    assert {unit.name for unit in mutator.mutable_units} >= FREE
    for unit in mutator.mutable_units:
        unit.keep_first(unit.num_channels // 2)
    with torch.no_grad():
        plain(x)  # PyTorch copies what a hook has computed only if that was without gradients
    check_masked(plain, net, mutator, x, 1e-10 if case.dtype == torch.float64 else 1e-5)
    with torch.no_grad():
        torch.testing.assert_close(export_subnet(net)(x), net(x))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_report_names_the_place(case: Case) -> None:
    net = build(case)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net, torch.randn(5, 4, dtype=case.dtype), verify=False)
    report = mutator.report()
    found = [unit for unit in report.units if re.search(case.reason, unit.reason)]
    assert found, report
    for unit in found:
        assert not unit.mutable
        assert re.fullmatch(case.op, unit.op)
        assert re.fullmatch(case.module, unit.module)
        assert re.fullmatch(r".*test_refusals\.py:\d+", unit.line)
    assert len({unit.name for unit in report.units}) == len(report.units)
    held = {name for name, _ in net.named_parameters() if name.startswith("middle.")}
    assert {parameter.name for parameter in report.unassigned} == held
    assert all(re.search(case.reason, parameter.reason) for parameter in report.unassigned)
    assert ("parameters in no unit" in str(report)) == bool(held)


def test_a_custom_op_is_listed_with_the_units_that_it_keeps() -> None:
    net = build(CASES["custom op"])
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net, torch.randn(5, 4, dtype=torch.float64))
    (op,) = mutator.report().unruled
    assert (op.module, op.units) == ("middle", ("front.2_(0, 8)_8",))
    assert op.op.endswith("twist")
    assert re.fullmatch(r".*test_refusals\.py:\d+", op.line)
    assert "front.2_(0, 8)_8 at full width" in str(mutator.report())


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("error:None of the inputs:UserWarning")
def test_checkpointing_narrows_like_anything_else(reentrant: bool) -> None:
    """The backward pass runs the block again, at the same width: its gradients are those of the exported twin."""
    case = Case(lambda: Checkpointed(reentrant), "")
    plain, net = build(case), build(case)
    x = torch.randn(5, 4, dtype=case.dtype, generator=torch.Generator().manual_seed(1))
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net, x)
    assert {unit.name for unit in mutator.mutable_units} == {*FREE, "front.2_(0, 8)_8", "middle.a_(0, 6)_6"} | {
        "middle.b_(0, 8)_8"
    }
    for unit in mutator.mutable_units:
        unit.keep_first(unit.num_channels // 2)
    check_masked(plain, net, mutator, x, 1e-10)
    net.train()
    check_gradients(net, export_subnet(net), x.clone().requires_grad_(), 1e-10)


def test_a_branch_on_a_channel_keeps_that_channel() -> None:
    case = Case(Branch, "")
    plain, net = build(case), build(case)
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net, x, verify=False)
    by_name = {unit.name: unit for unit in mutator.report().units}
    first = by_name["front.2_(0, 1)_1"]
    assert not first.mutable
    assert first.module == "middle"
    assert re.fullmatch(r".*test_refusals\.py:\d+", first.line)
    assert by_name["front.2_(1, 8)_7"].mutable
    mutator.set_choices({"front.2_(1, 8)_7": 3, "back.0_(0, 12)_12": 6})
    check_masked(plain, net, mutator, x, 1e-10)


def test_lazy_modules_are_refused_until_the_model_has_run() -> None:
    net = Net(nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.LazyLinear(8))).eval()
    x = torch.randn(5, 4)
    with pytest.raises(PrepareError, match=r"middle.0.weight is lazy.*run the model once"):
        ChannelMutator().prepare_from_supernet(net, x)
    assert type(net.front[0]) is nn.Linear
    net(x)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net, x)
    assert {"front.2_(0, 8)_8", "middle.0_(0, 6)_6", "middle.2_(0, 8)_8"} <= {u.name for u in mutator.mutable_units}


def test_a_model_on_the_meta_device_is_refused() -> None:
    with pytest.raises(PrepareError, match=r"front.0.weight is on the meta device.*materialise the model first"):
        ChannelMutator().prepare_from_supernet(Net(Two()).to("meta"), torch.randn(5, 4))


@pytest.mark.parametrize("value", [None, 3.5, "text", []])
def test_a_model_that_returns_no_tensor_is_refused(value: Any) -> None:
    class Silent(Two):
        def forward(self, x: Tensor) -> Any:
            super().forward(x)
            return value

    model = Silent()
    with pytest.raises(
        TraceError, match=f"Silent returned no tensor for its example input, but {type(value).__name__}"
    ):
        ChannelMutator().prepare_from_supernet(model, torch.randn(5, 8))
    assert type(model.a) is nn.Linear


def test_a_model_that_fails_is_refused_with_what_it_said() -> None:
    model = Net(nn.Linear(9, 8))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ChannelsError, match=r"Net failed on its example input \(float32\[5, 4\]\): RuntimeError: addmm"
    ):
        ChannelMutator().prepare_from_supernet(model, torch.randn(5, 4))
    assert type(model.front[0]) is nn.Linear
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
