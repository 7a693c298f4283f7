"""Every unit type on networks with groups, bare tensors, depthwise convolutions and squeezes."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from invariants import check_exported
from zoo import ZOO, cast, randomise

from lightning_channels import ChannelMutator

UNIT_TYPES: dict[str, dict[str, Any]] = {
    "number": {"type": "SequentialMutableChannelUnit", "default_args": {"divisor": 4}},
    "ratio": {"type": "SequentialMutableChannelUnit", "default_args": {"choice_mode": "ratio"}},
    "one_shot": {"type": "OneShotMutableChannelUnit", "default_args": {"candidate_choices": [0.3, 0.5, 1.0]}},
    "slimmable": {
        "type": "SlimmableChannelUnit",
        "default_args": {"candidate_choices": [0.3, 0.5, 1.0], "choice_mode": "ratio"},
    },
    "any": {"type": "MutableChannelUnit"},
    "l1": {"type": "L1MutableChannelUnit", "default_args": {"choice_mode": "ratio", "divisor": 2}},
    "ranked": {"type": "RankedMutableChannelUnit", "default_args": {"criterion": {"type": "l2", "reduction": "max"}}},
}


@pytest.mark.parametrize("kind", UNIT_TYPES)
@pytest.mark.parametrize("name", ["everything", "resnext50_32x4d", "mobilenet_v3_small"])
def test_every_unit_type(name: str, kind: str) -> None:
    entry = next(entry for entry in ZOO if entry.name == name)
    plain = randomise(entry.build()).double().eval()
    prepared = copy.deepcopy(plain)
    inputs = cast(entry.inputs(), torch.float64)
    mutator = ChannelMutator(UNIT_TYPES[kind])
    mutator.prepare_from_supernet(prepared, inputs)
    assert len(mutator.mutable_units) == entry.mutable
    assert all(unit.mutable_channel.activated_channels == unit.num_channels for unit in mutator.units)
    for seed in range(2):
        choices = mutator.sample_choices("random", random.Random(seed))
        mutator.set_choices(choices)
        assert mutator.current_choices == choices  # what is sampled is allowed as it is
        check_exported(prepared, inputs, 1e-10)
        state = mutator.structure()
        rebuilt = ChannelMutator.from_structure(state)
        rebuilt.prepare_from_supernet(copy.deepcopy(plain))
        assert rebuilt.current_choices == choices
        assert rebuilt.kept_channels() == mutator.kept_channels()
