"""The backward tracer finds what the forward tracer does, and leaves the model as it was."""

from __future__ import annotations

import random

import networks.control
import networks.convolutional
import networks.modules
import networks.sequences
import networks.sizes
import networks.squeezing
import networks.transformers  # noqa: F401  # importing them adds their networks
import pytest
import torch
import torchvision
from backward_checks import Middle, assert_same_units, facts
from networks.case import CASES, Case
from printed import assert_toy_units
from torch import Tensor, nn
from zoo import ZOO, Entry, Toy, cast

from lightning_channels import (
    BackwardTracer,
    ConfigError,
    ForwardTracer,
    ModuleGraph,
    SequentialMutableChannelUnit,
    TraceError,
)
from lightning_channels.tracing.replay import Replay

CLASSIFIERS = torchvision.models.list_models(torchvision.models)  # these have a file of their own


# --- the same as the forward tracer's --------------------------------------------------------------------------------


def test_the_network_of_the_notebook() -> None:
    units = SequentialMutableChannelUnit.init_from_graph(ModuleGraph.init_from_backward_tracer(Toy()))
    assert_toy_units(units)


@pytest.mark.parametrize("entry", [entry for entry in ZOO if entry.name not in CLASSIFIERS], ids=str)
def test_same_units_in_the_zoo(entry: Entry) -> None:
    torch.manual_seed(0)
    assert_same_units(entry.build().eval(), cast(entry.inputs(), torch.float32))


NOT_FOLLOWED = {
    "DependsOnValues": "Python code reads a value, which has no gradient",
    "LongShortTermMemory": "which of its weights are computed shows in the operators alone",
    "PaddingModes": "circular padding writes into parts of a tensor",
    "WritesByNumber": "writes into parts of a tensor",
    "WritesByWidth": "writes into parts of a tensor",
}


@pytest.mark.parametrize("case", [case for case in CASES if str(case) not in NOT_FOLLOWED], ids=str)
def test_same_units_in_pitfalls(case: Case) -> None:
    torch.manual_seed(0)
    assert_same_units(case.build().double().eval(), case.inputs())


@pytest.mark.parametrize("case", [case for case in CASES if str(case) in NOT_FOLLOWED], ids=str)
def test_no_unit_is_wider_where_something_is_not_followed(case: Case) -> None:
    model, inputs = case.build().double().eval(), case.inputs()
    expected, found = facts(ForwardTracer().trace(model, inputs)), facts(BackwardTracer().trace(model, inputs))
    for name, own in found.items():
        if own["mutable"]:
            assert own["channels"] == expected[name]["channels"]


def test_every_operator_knows_its_module_and_its_line() -> None:
    forward, backward = (tracer.trace(Toy(), torch.randn(1, 3, 8, 8)) for tracer in (ForwardTracer(), BackwardTracer()))
    expected = {(op.name, op.module, op.line) for op in forward.program.ops}
    assert {(op.name, op.module, op.line) for op in backward.program.ops} <= expected
    assert len({op.line for op in backward.program.ops}) == 1
    names = [call.module for call in backward.program.calls]
    assert names == [call.module for call in forward.program.calls]
    assert names[-1] == ""
    assert backward.program.calls[-1].outputs == tuple(backward.program.outputs)


def test_its_program_is_not_run_again() -> None:
    graph = BackwardTracer().trace(Toy(), torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match="replay what ForwardTracer recorded"):
        Replay(graph, [])


# --- what it leaves behind -------------------------------------------------------------------------------------------


class Shifted(nn.Module):
    """A frozen layer, a buffer that is added, and one that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)
        self.a.requires_grad_(False)
        self.register_buffer("shift", torch.randn(16))
        self.register_buffer("runs", torch.zeros(()))
        self.register_buffer("largest", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.runs += 1
        self.largest.copy_(x.argmax())
        return self.b(torch.relu(self.norm(self.a(x) + self.shift)))


def test_the_model_comes_out_as_it_went_in() -> None:
    model = Shifted()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learns = {name: tensor.requires_grad for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    state = torch.get_rng_state(), random.getstate()
    BackwardTracer().trace(model, torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor.requires_grad == learns[name], name
        assert tensor.grad is None
        assert not vars(tensor)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert not torch.is_anomaly_enabled()
    assert torch.is_grad_enabled()


def test_frozen_layers_and_buffers_are_followed() -> None:
    forward, backward = assert_same_units(Shifted(), torch.randn(2, 8))
    unit = next(u for u in SequentialMutableChannelUnit.init_from_graph(backward) if u.is_mutable)
    assert {channel.label for channel in unit.channels} == {"a", "norm", "shift", "b"}
    assert forward.training is not None


def test_gradients_are_off_outside_and_the_state_stays_after_an_error() -> None:
    model = Middle(lambda x: x.view(7, 7))
    model.a.requires_grad_(False)
    with torch.no_grad(), pytest.raises(TraceError, match="failed on its example input"):
        BackwardTracer().trace(model, torch.randn(2, 8))
    assert not model.a.weight.requires_grad
    assert not torch.is_anomaly_enabled()
    for mode in (torch.no_grad(), torch.inference_mode()):
        model = Middle(torch.relu)
        with mode:
            assert_same_units(model, torch.randn(2, 8))


def test_overwritten_tensors_are_not_read() -> None:
    def middle(x: Tensor) -> Tensor:
        x = x.relu_() * 2
        y = x.exp()
        x += y  # the exponential has saved its result …
        y.mul_(3)  # … which is overwritten
        return x.add_(1).div_(2) + y

    assert_same_units(Middle(middle), torch.randn(2, 8))


def test_inputs_may_be_written_to() -> None:
    class Normalising(Middle):
        def forward(self, x: Tensor) -> Tensor:
            x.sub_(0.5).div_(2)
            return super().forward(x)

    inputs = torch.randn(2, 8)
    before = inputs.clone()
    assert_same_units(Normalising(torch.relu), inputs)
    assert torch.equal(inputs, before)
    assert not inputs.requires_grad


def test_the_shape_of_default_inputs_is_checked() -> None:
    with pytest.raises(ConfigError, match="input_shape must be a sequence of positive integers"):
        BackwardTracer(input_shape=(0, 3))
