"""What a dynamic op carries, and how much of it is its own."""

from __future__ import annotations

import copy
import pickle

import pytest
from torch import nn

from lightning_channels.dynamic_ops import containers, make_dynamic
from lightning_channels.dynamic_ops.state import state_of
from lightning_channels.mutables import SquentialMutableChannel


def test_ops_that_are_alike_share_their_plan() -> None:
    one, other = (make_dynamic(nn.Conv2d(size, 8, 3)) for size in (4, 6))
    assert state_of(one).plan is state_of(other).plan
    assert state_of(one).held[0] is not state_of(other).held[0]
    for grouped in (nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 8)):
        assert state_of(make_dynamic(grouped)).plan is not state_of(one).plan


def test_copies_have_the_plan_and_containers_of_their_own() -> None:
    conv = make_dynamic(nn.Conv2d(4, 8, 3, groups=2))
    for copied in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert state_of(copied).plan is state_of(conv).plan
        assert containers(copied).keys() == containers(conv).keys()
        assert not {*map(id, containers(copied).values())} & {*map(id, containers(conv).values())}


def test_a_plan_says_what_follows_which_side() -> None:
    state = state_of(make_dynamic(nn.Conv2d(4, 8, 3, groups=2)))
    sides = state.containers
    assert list(sides) == ["in_channels", "out_channels"]
    inputs, outputs = sides.values()
    assert state.tensors == {"weight": ((0, outputs, 1), (1, inputs, 2)), "bias": ((0, outputs, 1),)}
    assert state.container("out_channels") is outputs
    assert state.entries("no_such_tensor") == ()


@pytest.mark.parametrize(("side", "narrow"), [(False, {"weight"}), (True, {"weight", "bias"})])
def test_only_what_follows_a_narrow_side_is_narrow(side: bool, narrow: set[str]) -> None:
    """The getters look at all sides first, and then at those of their tensor."""
    linear = make_dynamic(nn.Linear(4, 6))
    mutable = SquentialMutableChannel(6 if side else 4)
    linear.channel_container(side).register_mutable(mutable)
    mutable.current_choice = 2
    full = linear._parameters
    assert {name for name in full if getattr(linear, name) is not full[name]} == narrow
    assert (linear.in_features, linear.out_features) == ((4, 2) if side else (2, 6))
