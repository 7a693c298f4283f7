"""Fully sharded data parallelism (``fully_shard``) on dynamic modules, in a group of one process."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from lightning_channels import ChannelMutator


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def prepared(mesh: Any = None, each: bool = True) -> tuple[nn.Module, ChannelMutator]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 3))
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net, X)
    if mesh is not None:
        for module in net if each else ():
            if list(module.parameters()):
                fully_shard(module, mesh=mesh)
        fully_shard(net, mesh=mesh)
    return net, mutator


def whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def step(net: nn.Module) -> list[Tensor]:
    """Outputs and gradients."""
    net.zero_grad()
    output = net(X.to(next(net.parameters()).dtype))
    output.square().sum().backward()
    return [output.detach(), *(whole(parameter.grad) for parameter in net.parameters())]


def narrow(mutator: ChannelMutator, width: float = 0.5) -> None:
    mutator.set_choices({unit.name: int(unit.num_channels * width) for unit in mutator.mutable_units})


@pytest.mark.parametrize("each", [True, False], ids=["each layer", "the whole"])
def test_the_first_forward_may_be_narrow(mesh: Any, each: bool) -> None:
    """It initialises what shards the parameters, which reads them from the modules and must see all of each."""
    (net, mutator), (twin, expected) = prepared(mesh, each), prepared()
    for width in (0.5, 0.25, 1.0, 0.75):
        narrow(mutator, width)
        narrow(expected, width)
        for own, value in zip(step(net), step(twin), strict=True):
            assert torch.equal(own, value)
    assert (net[0].out_features, net[3].in_features) == (6, 6)


def test_loading_and_moving_a_narrow_model(mesh: Any) -> None:
    (net, mutator), (twin, expected) = prepared(mesh), prepared()
    state = {name: tensor + 1 for name, tensor in twin.state_dict().items()}
    narrow(mutator)
    narrow(expected)
    step(net)
    sharded = copy.copy(net.state_dict())
    for name, tensor in sharded.items():
        sharded[name] = type(tensor).from_local(state[name], tensor.device_mesh, tensor.placements)
    net.load_state_dict(sharded)
    twin.load_state_dict(state)
    for _ in range(2):
        for own, value in zip(step(net), step(twin), strict=True):
            assert torch.equal(own, value)
        net.cpu()
        twin.cpu()


def test_between_forwards_the_sharded_parameter_is_all_there(mesh: Any) -> None:
    net, mutator = prepared(mesh)
    narrow(mutator)
    assert all(tensor.shape == net.state_dict()[name].shape for name, tensor in net.named_parameters())
    assert net[0].weight is net[0]._parameters["weight"]
    net.unshard()
    net[0].unshard()
    assert net[0].weight.shape == (4, 6)
    net[0].reshard()
    assert net[0].weight.shape == (8, 6)
