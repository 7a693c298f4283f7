"""What counts as active in a step: over passes, tied parameters, candidates and all kinds of layers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_channels import SlimmableChannelMutator, inactive
from lightning_channels.dynamic_ops import containers, make_dynamic
from lightning_channels.errors import ConfigError
from lightning_channels.inactive import InactiveSlices
from lightning_channels.mutables import SquentialMutableChannel
from tests.inactive.nets import WIDTHS, batch, keep, net, parameters, prepared, step
from tests.invariants import active_parts, narrow


def inactive_mask(tensor: Tensor, dims: list[tuple[int, Tensor]]) -> Tensor:
    inside = torch.ones(tensor.shape, dtype=torch.bool)
    for dim, kept in dims:
        inside &= torch.isin(torch.arange(tensor.shape[dim]), kept).view(
            [-1 if other == dim else 1 for other in range(tensor.dim())]
        )
    return ~inside


def test_passes_before_one_step_add_up() -> None:
    model = net()
    mutator = prepared(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    slices = InactiveSlices(model)
    step(model, slices, optimizer, batch(0))  # a state that a step would move
    for passes in ([WIDTHS[0], WIDTHS[1]], [WIDTHS[3], WIDTHS[4], WIDTHS[3]]):
        optimizer.zero_grad()
        before = copy.deepcopy({n: (p.detach(), optimizer.state[p]) for n, p in parameters(model).items()})
        outside = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in parameters(model).items()}
        for number, kept in enumerate(passes):
            keep(mutator, kept)
            slices.note()
            model(batch(number)).square().sum().backward()
            for name, dims in active_parts(model):
                outside[name] &= inactive_mask(outside[name], dims)
        assert not bool(outside["4.bias"].any())
        assert bool(outside["2.weight"].any())
        slices.hold(optimizer)
        optimizer.step()
        slices.put_back(optimizer)
        for name, parameter in parameters(model).items():
            old, state = before[name]
            mask = outside[name]
            assert torch.equal(parameter[mask], old[mask])
            assert bool((parameter != old)[~mask].all())
            for key in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(optimizer.state[parameter][key][mask], state[key][mask])
                assert bool((optimizer.state[parameter][key] != state[key])[~mask].all())


def test_a_step_begins_with_nothing_noted() -> None:
    model = net()
    mutator = prepared(model)
    optimizer, slices = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1), InactiveSlices(model)
    step(model, slices, optimizer, batch(0))
    keep(mutator, WIDTHS[0])
    before = parameters(model)["0.weight"].detach().clone()
    step(model, slices, optimizer, batch(0))
    assert torch.equal(parameters(model)["0.weight"][3:], before[3:])


def test_after_a_skipped_step_reset_begins_anew() -> None:
    model = net()
    mutator = prepared(model)
    optimizer, slices = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1), InactiveSlices(model)
    slices.note()
    model(batch(0)).sum().backward()
    slices.hold(optimizer)
    slices.reset()
    keep(mutator, WIDTHS[0])
    before = parameters(model)["0.weight"].detach().clone()
    slices.put_back(optimizer)  # nothing is held any more
    step(model, slices, optimizer, batch(0))
    assert torch.equal(parameters(model)["0.weight"][3:], before[3:])
    assert not torch.equal(parameters(model)["0.weight"][:3], before[:3])


def test_wholly_active_parameters_are_not_copied() -> None:
    model = net()
    mutator = prepared(model)
    optimizer, slices = torch.optim.SGD(model.parameters(), lr=0.1), InactiveSlices(model)
    for passes in ([None], [None, WIDTHS[0]], [([0, 2, 4], [0, 1]), ([1, 3, 5], [2, 3])]):
        slices.reset()
        for kept in passes:
            keep(mutator, kept or (list(range(6)), list(range(4))))
            slices.note()
            model(batch(0)).sum().backward()
        slices.hold(optimizer)
        held = [held.parameter for held in slices._held[optimizer]]
        # two halves each way are not the whole of a matrix
        expected = [model[2]._parameters["weight"]] if len(passes) == 2 and passes[0] else []
        assert [id(parameter) for parameter in held] == [id(parameter) for parameter in expected]


def test_nothing_noted_leaves_everything_to_the_optimizer() -> None:
    model = net()
    keep(prepared(model), WIDTHS[0])
    optimizer, slices = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1), InactiveSlices(model)
    before = parameters(model)["0.weight"].detach().clone()
    model(batch(0)).sum().backward()
    slices.hold(optimizer)
    optimizer.step()
    slices.put_back(optimizer)
    assert not torch.equal(parameters(model)["0.weight"][3:], before[3:])


def test_frozen_parameters_and_those_without_gradient_are_left_alone() -> None:
    model = net()
    mutator = prepared(model)
    optimizer, slices = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1), InactiveSlices(model)
    frozen, unused = model[0]._parameters["weight"], model[2]._parameters["weight"]
    frozen.requires_grad_(False)
    keep(mutator, WIDTHS[0])
    slices.note()
    model(batch(0)).sum().backward()
    unused.grad = None
    slices.hold(optimizer)
    held = [id(held.parameter) for held in slices._held[optimizer]]
    assert id(frozen) not in held
    assert id(unused) not in held
    assert held


def test_several_optimizers_and_groups_at_their_own_pace() -> None:
    model = net()
    mutator = prepared(model)
    first = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}], lr=0.2)
    second = torch.optim.AdamW(model[4].parameters(), lr=0.1, weight_decay=0.5)
    slices = InactiveSlices(model)
    before = {name: p.detach().clone() for name, p in parameters(model).items()}
    for number, kept in enumerate((([0, 1, 2], [0]), ([0, 1], [0, 1]))):
        keep(mutator, kept)
        slices.note()
        model(batch(number)).sum().backward()
        slices.hold(first)
        if number:
            slices.hold(second)
            second.step()
            slices.put_back(second)
        else:
            # what the second optimizer will step was noted in the first pass, and stays so
            first.zero_grad()
        first.step()
        slices.put_back(first)
    now = parameters(model)
    assert torch.equal(now["4.weight"][:, 2:], before["4.weight"][:, 2:])
    assert bool((now["4.weight"] != before["4.weight"])[:, :2].all())
    assert torch.equal(now["0.weight"][2:], before["0.weight"][2:])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.b.weight = self.a.weight
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.b(self.a(x)))


def test_what_is_active_in_either_of_two_modules_that_share_it_is() -> None:
    model = Tied()
    mutables = []
    for layer, side in ((model.a, "out_features"), (model.b, "out_features")):
        make_dynamic(layer)
        mutables.append(SquentialMutableChannel(4))
        containers(layer)[side].register_mutable(mutables[-1])
    mutables[0].current_choice, mutables[1].current_choice = 1, 3
    parameter = model.a._parameters["weight"]
    assert parameter is model.b._parameters["weight"]
    optimizer, slices = torch.optim.SGD([parameter], lr=0.1, weight_decay=0.5), InactiveSlices(model)
    before = parameter.detach().clone()
    slices.note()
    parameter.grad = torch.ones_like(parameter)
    slices.hold(optimizer)
    optimizer.step()
    slices.put_back(optimizer)
    assert bool((parameter != before)[:3].all())
    assert torch.equal(parameter[3:], before[3:])


def test_a_plain_module_around_the_model_uses_all_of_what_it_shares() -> None:
    inner, outer = net(), nn.Linear(5, 6).double()
    root = nn.ModuleDict({"inner": inner, "outer": outer})
    keep(prepared(inner), WIDTHS[0])
    outer.weight = inner[0]._parameters["weight"]
    optimizer = torch.optim.SGD(root.parameters(), lr=0.1, weight_decay=0.5)
    for slices, expected in ((InactiveSlices(inner), True), (InactiveSlices(inner, root), False)):
        slices.note()
        inner(batch(0)).sum().backward()
        slices.hold(optimizer)
        assert any(held.parameter is outer.weight for held in slices._held[optimizer]) == expected
        assert all(held.parameter is not outer.bias for held in slices._held[optimizer])


def test_candidates_of_a_switchable_norm_that_are_not_active_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)).double()
    unit = {"type": "SlimmableChannelUnit", "default_args": {"candidate_choices": [2, 4, 8]}}
    mutator = SlimmableChannelMutator(unit)
    x = torch.randn(4, 3, 6, 6, dtype=torch.double)
    mutator.prepare_from_supernet(model, x)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    slices = InactiveSlices(model)
    step(model, slices, optimizer, x)
    holders = [*model[1].candidates, model[1]]
    for subnet, width in ((0, 2), (1, 4), (2, 8), (0, 2)):
        mutator.set_subnet(subnet)
        before = [copy.deepcopy((h._parameters["weight"], optimizer.state[h._parameters["weight"]])) for h in holders]
        step(model, slices, optimizer, x)
        for number, (holder, (old, state)) in enumerate(zip(holders, before, strict=True)):
            weight = holder._parameters["weight"]
            start = width if number == subnet else 0
            assert torch.equal(weight[start:], old[start:])
            assert bool((weight != old)[:start].all())
            for key in ("exp_avg", "exp_avg_sq"):
                now = optimizer.state[weight][key]
                assert torch.equal(now[start:], state[key][start:] if key in state else torch.zeros_like(now[start:]))


class Slope(nn.BatchNorm1d):
    """A switchable norm with a parameter that all candidates share."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.slope = nn.Parameter(torch.ones(3))


def test_what_all_candidates_share_is_active_with_each() -> None:
    model = nn.Sequential(nn.Linear(5, 4), Slope(4), nn.Linear(4, 2)).double()
    unit = {"type": "SlimmableChannelUnit", "default_args": {"candidate_choices": [2, 4]}}
    mutator = SlimmableChannelMutator(unit)
    mutator.prepare_from_supernet(model, batch(0))
    mutator.set_subnet(0)
    optimizer, slices = torch.optim.SGD(model.parameters(), lr=0.1), InactiveSlices(model)
    slices.note()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    slices.hold(optimizer)
    held = {id(held.parameter) for held in slices._held[optimizer]}
    assert id(model[1].slope) not in held
    assert id(model[1]._parameters["weight"]) in held


def test_first_state_is_zero_where_nothing_was_active() -> None:
    for optimizer_of in (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.5),
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.5),
    ):
        model = net()
        keep(prepared(model), WIDTHS[0])
        optimizer, slices = optimizer_of(model.parameters()), InactiveSlices(model)
        step(model, slices, optimizer, batch(0))
        state = {k: v for k, v in optimizer.state[model[0]._parameters["weight"]].items() if v.dim()}
        assert state
        for tensor in state.values():
            assert not bool(tensor[3:].any())
            assert bool((tensor[:3] != 0).all())


class Bare(nn.Module):
    """A parameter that is in no table."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(5, 6), nn.Linear(6, 2)
        self.scale, self.shift = nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(1, 6))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(self.inside(x) * self.scale + self.shift)


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.GroupNorm(4, 8),
        nn.Conv2d(8, 12, 1, groups=4),
        nn.PReLU(12),
        nn.ConvTranspose2d(12, 6, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(6),
        nn.Linear(6, 2),
    ).double()


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize(("build", "shape"), [(Bare, (3, 5)), (grouped, (3, 4, 5, 5))])
def test_every_kind_of_layer(build: Callable[[], nn.Module], shape: tuple[int, ...], prefix: bool) -> None:
    torch.manual_seed(0)
    model = build().to(memory_format=torch.channels_last) if len(shape) == 4 else build()
    mutator = prepared(model, *shape)
    optimizer, slices = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5), InactiveSlices(model)
    x = torch.randn(shape, dtype=torch.double)
    with torch.no_grad():  # no value that decay leaves as it is
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter) + 0.01)
    step(model, slices, optimizer, x)
    for seed in range(4):
        narrow(mutator, seed, prefix)
        before = {name: p.detach().clone() for name, p in parameters(model).items()}
        strides = {name: p.stride() for name, p in parameters(model).items()}
        step(model, slices, optimizer, x)
        seen = 0
        for name, dims in active_parts(model):
            mask, now = inactive_mask(before[name], dims), parameters(model)[name]
            assert torch.equal(now[mask], before[name][mask])
            assert bool((now != before[name])[~mask].all())
            assert now.stride() == strides[name]
            seen += int(mask.sum())
        assert seen


@pytest.mark.parametrize("cls", [torch.optim.LBFGS, torch.optim.Rprop, torch.optim.ASGD, torch.optim.Adafactor])
def test_optimizers_for_which_it_cannot_be_right_are_refused(cls: type) -> None:
    model = net()
    optimizer = cls(model.parameters())
    with pytest.raises(ConfigError, match=rf"{cls.__name__} can't leave inactive channels as they are: it"):
        InactiveSlices(model).hold(optimizer)
    inactive.check_optimizer(torch.optim.RMSprop(model.parameters()))
