"""Checks of a traced model's replay: against zeros in the weights, and against Python code on narrowed tensors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels.tracing import ForwardTracer, Group, ModuleGraph
from lightning_channels.tracing.labels import varying
from lightning_channels.tracing.recorder import tensors_in
from lightning_channels.tracing.replay import Replay
from lightning_channels.tracing.running import call


def traced(model: nn.Module, *inputs: Any) -> tuple[ModuleGraph, tuple[Any, ...]]:
    """The graph of a model in float64 and eval mode, and its inputs in float64."""
    generator = torch.Generator().manual_seed(0)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():  # no weight is 0 or 1 by chance
            tensor.data = torch.rand(tensor.shape, generator=generator).add(0.2) * torch.randn(
                tensor.shape, generator=generator
            ).sign().clamp_min(-1 if tensor.dim() > 1 else 1)
    model = model.double().eval()
    inputs = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
    return ForwardTracer().trace(model, inputs), inputs


def mutable(graph: ModuleGraph, exact: bool | None = None) -> list[Group]:
    """The groups that can change; of these, the ones that are exact or not."""
    groups = [group for group in graph.groups if group.pin is None]
    return groups if exact is None else [group for group in groups if (group.inexact is None) == exact]


def widths(groups: list[Group]) -> list[tuple[int, int]]:
    """(channels, tiles) of each."""
    return [(group.num_channels, group.tile) for group in groups]


def reasons(graph: ModuleGraph) -> list[str]:
    """Why the other groups can't change."""
    return [str(group.pin) for group in graph.groups if group.pin is not None]


def draws(groups: list[Group], seed: int) -> list[Tensor]:
    """Random channels to drop, never all of a group's; none at all for seed 0, all but one for seed 1."""
    generator = torch.Generator().manual_seed(seed)
    dropped = []
    for group in groups:
        total = len(group.classes)
        keep = {0: total, 1: 1}.get(seed, int(torch.randint(1, total, (), generator=generator)))
        dropped.append(group.classes[torch.randperm(total, generator=generator)[keep:]])
    return dropped


def assert_replayed(graph: ModuleGraph, *inputs: Any, python: bool = False) -> None:
    """Run the replay narrow and compare.

    Without any channel dropped it is the model; with channels of the exact groups it is the model with zeros in the
    weights that read them; with channels of all groups, where ``python``, it is the model's code on narrowed tensors.
    """
    tensors = dict([*graph.model.named_parameters(), *graph.model.named_buffers()])
    given = list(tensors_in(inputs))
    for seed in range(5):
        dropped = draws(mutable(graph, exact=True), seed)
        replayed = Replay(graph, dropped).run(tensors, given)
        close(replayed, _run(_zeroed(graph, dropped), inputs))
        dropped = draws(mutable(graph), seed)
        replayed = Replay(graph, dropped).run(tensors, given)
        if python:
            close(replayed, _run(_narrowed(graph, dropped), inputs))
        for out, ref in zip(replayed, graph.program.outputs, strict=True):
            assert out.shape == graph.program.shapes[ref]


def close(given: list[Tensor], expected: list[Tensor]) -> None:
    assert len(given) == len(expected)
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def _run(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    with torch.no_grad():
        return list(tensors_in(call(model, inputs)))


def _changed(graph: ModuleGraph, change: Any) -> nn.Module:
    model = copy.deepcopy(graph.model)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for ref, name in graph.program.leaves.items():
        tensors[name].data = change(tensors[name].detach(), graph.walk.leaf_maps[ref])
    return model


def _dead(graph: ModuleGraph, dropped: list[Tensor]) -> Tensor:
    dead = torch.zeros_like(graph.solution.pinned)
    for classes in dropped:
        dead[classes] = True
    return dead[graph.solution.root]


def _zeroed(graph: ModuleGraph, dropped: list[Tensor]) -> nn.Module:
    gone = torch.zeros_like(graph.solution.pinned)
    for labels in graph.walk.consumed:
        gone[labels.long()] = True
    gone &= _dead(graph, dropped)

    def change(tensor: Tensor, maps: tuple[Tensor, ...]) -> Tensor:
        for labels in maps:
            tensor = tensor.masked_fill(gone[labels.long()], 0.0)
        return tensor

    return _changed(graph, change)


def _narrowed(graph: ModuleGraph, dropped: list[Tensor]) -> nn.Module:
    alive = ~_dead(graph, dropped)

    def change(tensor: Tensor, maps: tuple[Tensor, ...]) -> Tensor:
        for labels in maps:
            (dim,) = varying(labels)
            tensor = tensor.index_select(dim, alive[labels.long()].flatten().nonzero().flatten())
        return tensor

    model = _changed(graph, change)
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and module.weight is not None:
            module.normalized_shape = tuple(module.weight.shape)
        if isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.groups > 1:
            module.groups = module.groups * module.weight.shape[0] // module.out_channels
    return model
