"""Every criterion on every network: a finite score for each channel, which goes where the channel goes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import invariants
import networks.test_pitfalls  # importing it adds all networks
import pytest
import torch
from networks.case import CASES, Case
from torch import Tensor, nn
from zoo import randomise

from lightning_channels import ChannelMutator, build_criterion, group_tensors
from lightning_channels.criteria import scores_of
from lightning_channels.criteria.tensors import owners
from lightning_channels.dynamic_ops.spec import layout
from lightning_channels.units.attach import side_key

assert networks.test_pitfalls

OF_WEIGHTS = ["l1", "l2", "lamp", "fpgm", "bn_scale", "random"]
COLLECTING = ["taylor", "fisher"]


IN_ORDER = "EfficientChannelAttention"
"""It convolves along its channels: in another order they are another net's."""

UNEVEN = "GhostOdd"
"""Some of its channels are read twice, and some once."""


@pytest.fixture(params=CASES, ids=str, scope="module")
def network(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def mutator(network: Case) -> ChannelMutator:
    torch.manual_seed(0)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(randomise(network.build()).double().eval(), network.inputs(), verify=False)
    return mutator


def scored(name: str, model: nn.Module, units: list[Any], inputs: Any) -> dict[str, Tensor]:
    """The scores after one pass, of the units that the criterion is for."""
    criterion: Any = build_criterion(name)
    if name in COLLECTING:
        model.zero_grad()
        criterion.start(model, units)
        draw = torch.Generator().manual_seed(0)
        outputs = [output for output in invariants.run(model, inputs) if output.requires_grad]
        losses = [(o * torch.randn(o.shape, generator=draw, dtype=o.dtype)).sum() for o in outputs]
        torch.stack(losses).sum().backward()
        criterion.after_backward()
        criterion.stop()
    rated = [unit for unit in units if name != "bn_scale" or group_tensors(unit, ["norms"])]
    return {unit.name: scores_of(criterion, unit) for unit in rated}


def is_used(unit: Any) -> bool:
    gradients = [tensor.parameter.grad for tensor in group_tensors(unit)]
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def test_scores_tell_channels_apart(network: Case, mutator: ChannelMutator) -> None:
    units = {unit.name: unit for unit in mutator.mutable_units}
    for name in OF_WEIGHTS + COLLECTING:
        for unit, scores in scored(name, mutator.model, list(units.values()), network.inputs()).items():
            assert scores.shape == (units[unit].num_channels,)
            alike = name == "fpgm" and len(scores) == 2  # the distance is that of both
            alike = alike or (name in COLLECTING and not is_used(units[unit]))
            assert (scores.std() > 0) != alike, (name, unit)


def places(unit: Any) -> Iterator[tuple[Tensor, int, int, Tensor, Tensor]]:
    """(tensor, dim, groups, positions, channels there) of all that holds a unit's channels, statistics too."""
    found: dict[tuple[int, int], tuple[Tensor, int, int, list[Tensor], list[Tensor]]] = {}
    seen = set()
    for channel in unit.channels:
        module = unit.model.get_submodule(channel.name)
        tensors = {**module._parameters, **module._buffers}
        if channel.tensor is not None:
            held = [(channel.tensor, channel.dim, 1)]
        else:
            key = side_key(module, channel)
            held = [(name, dim, g) for name, rows in layout(module).items() for dim, side, g in rows if side == key]
        for name, dim, groups in held:
            tensor = tensors[name]
            place = (id(tensor), dim, channel.start)
            if tensor is not None and place not in seen:
                seen.add(place)
                own = found.setdefault((id(tensor), dim), (tensor, dim, groups, [], []))
                own[3].append(torch.arange(channel.start, channel.end))
                own[4].append(owners(channel, unit.num_channels))
    for tensor, dim, groups, positions, channels in found.values():
        yield tensor, dim, groups, torch.cat(positions), torch.cat(channels)


def permute(unit: Any, order: Tensor) -> bool:
    """Put channel ``order[i]`` in the place of channel i, everywhere; False if some have more places than others."""
    work = list(places(unit))
    if any(len(channels.bincount(minlength=unit.num_channels).unique()) > 1 for *_, channels in work):
        return False
    with torch.no_grad():
        for tensor, dim, groups, positions, channels in work:
            index = torch.arange(tensor.shape[dim] * groups)
            rows = positions[channels.argsort(stable=True)].reshape(unit.num_channels, -1)
            index[rows.flatten()] = rows[order].flatten()
            tensor.copy_(tensor.index_select(dim, index[: tensor.shape[dim]]))
    return True


def reordered(unit: Any, seed: int) -> Tensor:
    """A random order of the channels, the same in every group."""
    inside = unit.num_channels // unit.groups
    within = torch.randperm(inside, generator=torch.Generator().manual_seed(seed))
    return (torch.arange(unit.groups)[:, None] * inside + within).flatten()


def test_scores_go_where_the_channels_go(network: Case, mutator: ChannelMutator) -> None:
    """Of a net with the same outputs, whose channels stand in another order."""
    if str(network) == IN_ORDER:
        return
    inputs, done = network.inputs(), 0
    scored("taylor", mutator.model, mutator.mutable_units, inputs)  # leaves gradients where there are any
    for number, unit in enumerate(mutator.mutable_units):
        twin = copy.deepcopy(mutator)
        moved = twin.name2unit[unit.name]
        order = reordered(unit, number)
        if not permute(moved, order):
            continue
        done += 1
        for a, b in zip(invariants.run(mutator.model, inputs), invariants.run(twin.model, inputs), strict=True):
            assert invariants.relative(a.detach(), b.detach()) <= 1e-10, unit.name
        for name in [*OF_WEIGHTS[:-1], *(COLLECTING if is_used(unit) else ())]:
            before, after = (scored(name, m.model, [u], inputs) for m, u in ((mutator, unit), (twin, moved)))
            assert before.keys() == after.keys()
            for key, scores in before.items():
                tolerance = 1e-12 * float(scores.abs().max())
                assert torch.allclose(after[key], scores[order], rtol=1e-7, atol=tolerance), (name, key)
    assert done or not mutator.mutable_units or str(network) == UNEVEN
