"""Networks with something that a tracer can get wrong, each with what must be found in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import networks.control
import networks.convolutional
import networks.heads
import networks.map_attention
import networks.modules
import networks.positions
import networks.sequences
import networks.sizes
import networks.squeezing
import networks.torch_attention
import networks.transformers
import networks.windows  # noqa: F401  # importing them adds their networks
import pytest
import torch
from networks.case import CASES, Case, width
from networks.checks import Invariants, Prepared
from zoo import randomise

from lightning_channels import MutableChannelUnit


@pytest.fixture(params=CASES, ids=str, scope="module")
def network(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def prepared(network: Case) -> Prepared:
    torch.manual_seed(0)
    plain = randomise(network.build()).double().eval()
    return Prepared(plain, network.inputs(), network.reads)


@pytest.fixture(autouse=True)
def _full_width(prepared: Prepared) -> Iterator[None]:
    yield
    prepared.widen()


def key(unit: MutableChannelUnit) -> str:
    first = unit.channels[0]
    return f"{first.label}[{first.start}]" if first.start else first.label


def test_units(network: Case, prepared: Prepared) -> None:
    units = prepared.mutator.units
    reasons = "\n".join(f"{unit.name}: {unit.why_not() or 'mutable'}" for unit in units)
    found = {key(unit): width(unit.num_channels, unit.groups) for unit in units if unit.is_mutable}
    assert found == network.mutable, reasons
    refused = {key(unit): unit.why_not() for unit in units if not unit.is_mutable}
    for name, pattern in network.refused.items():
        assert name in refused, reasons
        assert re.search(pattern, refused[name]), reasons
    inner = {key(unit) for unit in units if not unit.is_mutable and unit.output_related and unit.input_related}
    assert inner <= set(network.refused), reasons


class TestInvariants(Invariants):
    """Of every network."""
