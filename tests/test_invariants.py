"""One tester for all networks: the design's invariants, with the number of units that each network must have."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from invariants import (
    check_exported,
    check_full_width,
    check_gradients,
    check_masked,
    check_state_untouched,
    narrow,
)
from torch import nn
from zoo import ZOO, Entry, cast, randomise

from lightning_channels import ChannelMutator, ChoiceError


@pytest.fixture(params=ZOO, ids=str, scope="module")
def entry(request: pytest.FixtureRequest) -> Entry:
    return request.param


@pytest.fixture(scope="module")
def pair(entry: Entry) -> tuple[nn.Module, nn.Module, ChannelMutator, Any, dict[str, Any]]:
    """The plain network, its prepared copy in float64, and what the copy's tensors were before."""
    torch.manual_seed(0)
    plain = randomise(entry.build()).to(entry.dtype).eval()
    prepared = copy.deepcopy(plain)
    before = dict([*prepared.named_parameters(), *prepared.named_buffers()])
    inputs = cast(entry.inputs(), entry.dtype)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(prepared, inputs)
    return plain, prepared, mutator, inputs, before


@pytest.fixture
def tolerance(entry: Entry) -> float:
    return 1e-10 if entry.dtype == torch.float64 else 1e-5


@pytest.fixture(autouse=True)
def _full_width(pair: tuple[nn.Module, nn.Module, ChannelMutator, Any, dict[str, Any]]) -> Any:
    yield
    pair[2].set_choices(pair[2].sample_choices("max"))


def test_units(entry: Entry, pair: Any) -> None:
    _, _, mutator, _, _ = pair
    names = [unit.name for unit in mutator.units]
    assert (len(mutator.mutable_units), len(mutator.units)) == (entry.mutable, entry.units)
    assert tuple(names[: len(entry.first)]) == entry.first
    assert len(set(names)) == len(names)
    order = [name for name, _ in mutator.model.named_modules()]
    firsts = [(unit.output_related or unit.input_related)[0] for unit in mutator.units]
    places = [(first.tensor is not None, order.index(first.name)) for first in firsts]
    assert places == sorted(places)  # units that consist of bare tensors alone come last


def test_state_is_untouched(pair: Any) -> None:
    plain, prepared, _, _, before = pair
    check_state_untouched(plain, prepared, before)


def test_full_width_is_the_original(pair: Any) -> None:
    plain, prepared, _, inputs, _ = pair
    check_full_width(plain, prepared, inputs)


@pytest.mark.parametrize("prefix", [True, False], ids=["prefix", "indices"])
def test_sliced_is_exported(pair: Any, prefix: bool, tolerance: float) -> None:
    _, prepared, mutator, inputs, _ = pair
    narrow(mutator, seed=1, prefix=prefix)
    check_exported(prepared, inputs, tolerance)


@pytest.mark.parametrize("prefix", [True, False], ids=["prefix", "indices"])
def test_sliced_is_exported_in_single_precision(pair: Any, prefix: bool) -> None:
    _, prepared, mutator, inputs, _ = pair
    narrow(mutator, seed=2, prefix=prefix)
    check_exported(copy.deepcopy(prepared).float(), cast(inputs, torch.float32), 1e-5)


@pytest.mark.parametrize("prefix", [True, False], ids=["prefix", "indices"])
def test_sliced_is_masked(pair: Any, prefix: bool, tolerance: float) -> None:
    plain, prepared, mutator, inputs, _ = pair
    if not any(unit.exact for unit in mutator.mutable_units):
        pytest.fail("no unit is exact, so nothing would be tested")
    narrow(mutator, seed=3, prefix=prefix, only_exact=True)
    check_masked(plain, prepared, mutator, inputs, tolerance)


@pytest.mark.parametrize("prefix", [True, False], ids=["prefix", "indices"])
def test_gradients_at_half_width(pair: Any, prefix: bool, tolerance: float) -> None:
    _, prepared, mutator, inputs, _ = pair
    if prefix:
        mutator.set_choices({unit.name: max(1, unit.num_channels // 2) for unit in mutator.mutable_units})
    else:
        narrow(mutator, seed=4, prefix=False)
    check_gradients(prepared, check_exported(prepared, inputs, tolerance), inputs, tolerance)


def test_smallest_width_runs(pair: Any, tolerance: float) -> None:
    _, prepared, mutator, inputs, _ = pair
    mutator.set_choices(mutator.sample_choices("min"))
    assert all(unit.mutable_channel.activated_channels == unit.groups for unit in mutator.mutable_units)
    check_exported(prepared, inputs, tolerance)


def test_a_bad_choice_changes_nothing(pair: Any) -> None:
    _, _, mutator, _, _ = pair
    mutator.set_choices(mutator.sample_choices("random", random.Random(0)))
    before = mutator.current_choices
    names = list(before)
    with pytest.raises(ChoiceError, match="out of range"):
        mutator.set_choices({**dict.fromkeys(names, 1), names[-1]: 10**9})
    assert mutator.current_choices == before


def test_restore_gives_the_plain_classes_back(entry: Entry, pair: Any) -> None:
    plain, prepared, mutator, _, _ = pair
    choices = mutator.sample_choices("min")
    copied = copy.deepcopy(prepared)
    own = copied.__dict__["_channel_mutator"]
    assert own is not mutator
    own.set_choices(choices)
    assert mutator.current_choices != choices  # a copy of a prepared model has a mutator of its own
    own.restore()
    assert [type(m) for m in copied.modules()] == [type(m) for m in plain.modules()]
    assert [set(m.__dict__) for m in copied.modules()] == [set(m.__dict__) for m in plain.modules()]
