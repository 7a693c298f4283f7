"""What the tracer does to a model, and what it says of operators that it can't follow."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator, ConfigError, ForwardTracer, PrepareError, TraceError


def units(model: nn.Module, inputs: Any = None) -> dict[str, str]:
    """Unit name → why it can't change."""
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, torch.randn(2, 8) if inputs is None else inputs)
    return {unit.name: unit.why_not() for unit in mutator.units}


class Middle(nn.Module):
    """Two linear layers with something between them."""

    def __init__(self, middle: Any, hidden: int = 16, back: int | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, hidden), nn.Linear(back or hidden, 4)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.middle(self.a(x)))


@pytest.mark.parametrize(
    ("middle", "back"),
    [
        (torch.relu, None),
        (lambda x: x.unsqueeze(1).transpose(1, 2).flatten(1), None),
        (lambda x: torch.cat([x, x], 1), 32),
        (lambda x: torch.stack([x, x], 2).flatten(1), 32),
        (lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid(), 8),
        (lambda x: x.flip(1) + x.flip(1), None),
        (lambda x: x * x.new_ones(x.shape), None),
        (lambda x: x - x.mean(0, keepdim=True), None),
        (lambda x: x.repeat_interleave(3, 1), 48),
        (lambda x: torch.where(x > 0, x, 0.1 * x), None),
    ],
    ids=["relu", "transpose", "cat", "stack", "glu", "flip", "ones", "mean", "repeat", "where"],
)
def test_followed(middle: Any, back: int | None) -> None:
    found = units(Middle(middle, back=back))
    hidden = [name for name in found if name.startswith("a_") and "is the model's input" not in found[name]]
    assert any(found[name] == "" for name in hidden), found


@pytest.mark.parametrize(
    ("middle", "back", "op"),
    [
        (lambda x: torch.linalg.qr(x.view(-1, 4, 4)).Q.flatten(1), None, "linalg_qr"),
        (lambda x: torch.linalg.svdvals(x.view(-1, 4, 4)), 4, "_linalg_svd"),
        (lambda x: torch.linalg.inv(x.view(-1, 4, 4)).flatten(1), None, "linalg_inv_ex"),
    ],
    ids=["qr", "singular values", "inverse"],
)
def test_operators_without_a_rule_pin_and_are_reported(middle: Any, back: int | None, op: str) -> None:
    model = Middle(middle, back=back)
    graph = ForwardTracer().trace(model, torch.randn(2, 8))
    assert (op, "") in graph.unruled
    found = units(model)
    assert f"reaches an operator without a rule ({op} in the model, tests/tracing/test_tr" in found["a_(0, 16)_16"]
    assert all(found.values())


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: x[:, :8].repeat(1, 2),
        lambda x: x.view(-1, 4, 4).softmax(1).flatten(1) if x.shape[1] == 16 else x,
        lambda x: torch.cat([x[:, 8:16], x[:, :8]], 1),
        lambda x: x * 2 if x.shape[1] > 10 else x * 3,
    ],
    ids=["slice", "view", "swap", "branch"],
)
def test_what_runs_narrow_but_computes_something_else_is_refused(middle: Any) -> None:
    found = units(Middle(middle))
    assert all(found.values()), found


def test_a_model_that_fails_narrow_is_refused_with_the_place() -> None:
    class Viewing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(2, 16)

    found = units(Middle(Viewing()))
    assert found["a_(0, 16)_16"].startswith("middle fails when it is narrow: RuntimeError: shape '[2, 16]' is invalid")


def test_independent_units_survive_a_bad_one() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.good, self.bad = Middle(torch.relu), Middle(lambda x: x[:, :8].repeat(1, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.good(x) + self.bad(x)

    model = Two()
    found = units(model)
    assert found["good.a_(0, 16)_16"] == ""
    assert all(why for name, why in found.items() if name.startswith("bad."))
    assert type(model.bad.a) is nn.Linear
    assert type(model.good.a) is not nn.Linear


class Writing(nn.Module):
    """Writes what it computes into a tensor that it makes, slice by slice, as segmentation heads do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(12, 16)
        self.d = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.zeros(x.shape[0], 12)
        both[:, :6] = self.a(x)
        both[:, 6:] = self.b(x)
        return self.d(torch.relu(self.c(both)))


def test_writes_into_new_tensors_leave_the_other_units_alone() -> None:
    found = units(Writing())
    assert found["c_(0, 16)_16"] == ""
    assert found["a_(0, 6)_6"] != ""  # the new tensor is made with a hard-coded size
    assert found["b_(0, 6)_6"] != ""


class Outputs(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 4)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        middle = self.b(self.a(x))
        return self.wrap(middle, self.c(middle))


@dataclass
class Result:
    hidden: Tensor
    logits: Tensor


@pytest.mark.parametrize(
    "wrap",
    [lambda a, b: (a, b), lambda a, b: {"a": a, "b": [b]}, Result],
    ids=["tuple", "dict", "dataclass"],
)
def test_what_reaches_any_output_is_pinned(wrap: Any) -> None:
    found = units(Outputs(wrap))
    assert found["a_(0, 16)_16"] == ""
    assert "reaches the model's output" in found["b_(0, 12)_12"]
    assert "reaches the model's output" in found["c_(0, 4)_4"]


class Called(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
        return self.b(self.a(x) * scale)


def test_keyword_inputs() -> None:
    found = units(Called(), {"x": torch.randn(2, 8), "scale": torch.ones(())})
    assert found["a_(0, 16)_16"] == ""


def test_an_input_that_scales_channels_pins_them() -> None:
    found = units(Called(), {"x": torch.randn(2, 8), "scale": torch.ones(16)})
    assert "meets the model's input" in found["a_(0, 16)_16"]


def test_unused_parameters_are_unmutable() -> None:
    class Unused(Middle):
        def __init__(self) -> None:
            super().__init__(torch.relu)
            self.extra = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))

    found = units(Unused())
    assert "is not used in the forward pass" in found["extra.0_(0, 6)_6"]


class Auxiliary(nn.Module):
    """Has a head that runs in train mode alone, on channels of the trunk, as GoogLeNet has."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 4)
        self.aux, self.aux_norm, self.aux_head = nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        out = self.head(self.b(x).relu())
        return (out, self.aux_head(self.aux_norm(self.aux(x)))) if self.training else out


def test_heads_that_run_in_train_mode_only_follow_the_trunk() -> None:
    model = Auxiliary()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, torch.randn(1, 8))
    assert mutator.name2unit["aux_(0, 6)_6"].is_mutable
    assert [c.name for c in mutator.name2unit["a_(0, 16)_16"].input_related] == ["b", "aux"]
    mutator.set_choices(mutator.sample_choices("min"))
    out, aux = model.train()(torch.randn(3, 8))
    (out.sum() + aux.sum()).backward()
    assert model.aux.weight.shape == (1, 1)


def test_rnns_are_refused_with_the_reason() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.rnn, self.b = nn.Linear(8, 16), nn.LSTM(16, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.rnn(self.a(x))[0])

    assert all(units(Recurrent(), torch.randn(5, 2, 8)).values())


class Messy(nn.Module):
    """Has everything that tracing could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.drop, self.b = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.b.eval()
        self.a.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        torch.rand(3)
        x.mul_(1.0)
        return self.b(self.drop(self.norm(self.a(x))))


def test_the_model_comes_out_as_it_went_in() -> None:
    model = Messy()
    handle = model.a.register_forward_hook(lambda *args: None)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    identities = [id(t) for t in [*model.parameters(), *model.buffers()]]
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    inputs = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    kept = inputs.clone()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, inputs)
    assert mutator.mutable_units
    assert torch.equal(torch.rand(4), expected)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # type: ignore[index]  # noqa: NPY002
    assert torch.equal(inputs, kept)
    assert [module.training for module in model.modules()] == modes
    assert [id(t) for t in [*model.parameters(), *model.buffers()]] == identities
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert list(model.a._forward_hooks) == [handle.id]
    assert not model.a.weight.requires_grad
    assert all(not hasattr(t, "_lightning_channels_ref") for t in [*model.parameters(), *model.buffers()])


def test_a_model_that_fails_on_its_input() -> None:
    model = Middle(torch.relu)
    with pytest.raises(TraceError, match=r"Middle failed on its example input \(float32\[1, 3, 224, 224\]\).*example_"):
        ChannelMutator().prepare_from_supernet(model)
    assert type(model.a) is nn.Linear
    assert model.training


def test_other_bad_input() -> None:
    model = Middle(torch.relu)
    with pytest.raises(ConfigError, match="at least one tensor, got a str with none"):
        ChannelMutator().prepare_from_supernet(model, "images")  # type: ignore[arg-type]
    with pytest.raises(PrepareError, match=r"a.weight is on the meta device"):
        ChannelMutator().prepare_from_supernet(Middle(torch.relu).to("meta"), torch.randn(1, 8))
    with pytest.raises(ConfigError, match="input_shape must be a sequence of positive integers"):
        ForwardTracer(input_shape=(0, 3))
    with pytest.raises(TraceError, match="returned no tensor"):
        ChannelMutator().prepare_from_supernet(Outputs(lambda a, b: "nothing"), torch.randn(1, 8))
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, torch.randn(1, 8))
    with pytest.raises(PrepareError, match="this mutator is prepared already"):
        mutator.prepare_from_supernet(Middle(torch.relu), torch.randn(1, 8))
    with pytest.raises(PrepareError, match="the model is prepared already"):
        ChannelMutator().prepare_from_supernet(model, torch.randn(1, 8))
