"""Every network that attends, with dims within its heads pruned as well: apart from the heads, or in their place."""

from __future__ import annotations

from collections.abc import Iterator

import networks.heads
import networks.map_attention
import networks.positions
import networks.torch_attention
import networks.windows
import pytest
import torch
from networks.case import CASES, Case
from networks.checks import Invariants, Prepared
from zoo import randomise

MODULES = (networks.heads, networks.map_attention, networks.positions, networks.torch_attention, networks.windows)
ATTENDING = [case for case in CASES if case.build.__module__ in {module.__name__ for module in MODULES}]


@pytest.fixture(params=ATTENDING, ids=str, scope="module")
def network(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(params=["dims", "both"], scope="module")
def prepared(network: Case, request: pytest.FixtureRequest) -> Prepared:
    torch.manual_seed(0)
    plain = randomise(network.build()).double().eval()
    return Prepared(plain, network.inputs(), network.reads, request.param)


@pytest.fixture(autouse=True)
def _full_width(prepared: Prepared) -> Iterator[None]:
    yield
    prepared.widen()


class TestInvariants(Invariants):
    """Of every network that attends."""
