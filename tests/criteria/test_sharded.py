"""Criteria on parameters that are sharded (``fully_shard``), in a group of one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from lightning_channels import PrepareError, build_criterion
from tests.criteria.nets import prepared

UNIT = "0_(0, 8)_8"


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def x() -> torch.Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def net(mesh: Any = None) -> tuple[nn.Module, Any]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[1].weight.normal_()
    _, units = prepared(model, x())
    if mesh is not None:
        fully_shard(model, mesh=mesh)
    return model, units[UNIT]


@pytest.mark.parametrize("name", ["l1", "l2", "lamp", "fpgm", "bn_scale"])
def test_criteria_of_the_weights_see_whole_parameters(mesh: Any, name: str) -> None:
    (_, sharded), (_, whole) = net(mesh), net()
    assert torch.equal(build_criterion(name)(sharded), build_criterion(name)(whole))


def test_fisher_needs_the_activations_alone(mesh: Any) -> None:
    found = []
    for model, unit in (net(mesh), net()):
        criterion: Any = build_criterion("fisher")
        criterion.start(model, [unit])
        for _ in range(2):
            model(x()).square().sum().backward()
            criterion.after_backward()
        found.append(criterion(unit))
    assert torch.allclose(*found, rtol=1e-6)
    assert found[0].min() > 0


@pytest.mark.parametrize("given", ["taylor", {"type": "bn_scale", "penalty": 0.1}])
def test_what_needs_whole_gradients_is_refused(mesh: Any, given: Any) -> None:
    model, unit = net(mesh)
    with pytest.raises(PrepareError, match=r"needs whole parameters, and [01].weight is sharded"):
        build_criterion(given).start(model, [unit])  # type: ignore[attr-defined]
