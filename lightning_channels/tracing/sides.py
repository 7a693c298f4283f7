"""The channel sides of a model's modules, with the label of each position."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_channels._modules import named_modules_of, named_tensors_of
from lightning_channels.dynamic_ops.spec import OpSpec, refusal, spec_of
from lightning_channels.dynamic_ops.state import bare_side
from lightning_channels.tracing.labels import Pin, varying
from lightning_channels.tracing.walk import Walk

__all__ = ["Refused", "Side", "disagreeing_sides", "find_sides", "pin_refused", "refused_modules"]


@dataclass(slots=True)
class Side:
    """One side of a module that has channels, such as a convolution's outputs.

    Attributes:
        module: Dotted name.
        key: Name of the side (``"out_channels"``); for a bare tensor the tensor's name, with the dim if several have
            channels (``"table[1]"``).
        is_input: Whether it reads channels.
        is_output: Whether it gives channels; a norm's one side does both.
        labels: Label of each position, shape (size,).
        others: Labels that must be in the same classes, position by position (a bias beside a weight).
        bare: Name of the tensor and its dim where the module has no entry for it in the table of dynamic ops.
    """

    module: str
    key: str
    is_input: bool
    is_output: bool
    labels: Tensor
    others: list[Tensor]
    bare: tuple[str, int] | None = None


class _Leaves:
    """Label vectors of a model's tensors, found by the tensor's identity, so that tied ones share them."""

    def __init__(self, model: nn.Module, walk: Walk) -> None:
        vectors = {}
        for ref, name in walk.program.leaves.items():
            vectors[name] = {varying(m)[0]: m.reshape(-1) for m in walk.leaf_maps[ref]}
        self._by_id = {id(tensor): vectors[name] for name, tensor in named_tensors_of(model) if name in vectors}

    def of(self, tensor: Tensor | None) -> dict[int, Tensor]:
        """Dim → labels of a tensor."""
        return {} if tensor is None else self._by_id.get(id(tensor), {})


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's own parameters and floating buffers by attribute name."""
    tensors = {**module._parameters, **module._buffers}
    return {name: t for name, t in tensors.items() if t is not None and t.is_floating_point()}


@dataclass(frozen=True, slots=True)
class Refused:
    """A module that cannot be narrowed from outside, such as an RNN: its dotted name, and why."""

    module: str
    reason: str


def refused_modules(model: nn.Module) -> dict[str, Refused]:
    """What cannot be narrowed, by name; what a parametrized module computes its weight from belongs to it."""
    found: dict[str, Refused] = {}
    for name, module in named_modules_of(model):
        reason = refusal(module)
        if reason is not None:
            refused = Refused(name, f"{type(module).__name__} can't be narrowed: {reason}")
            found.setdefault(name, refused)
            if parametrize.is_parametrized(module):
                prefix = f"{name}.parametrizations".lstrip(".")
                parts = module.get_submodule("parametrizations").named_modules(prefix=prefix)
                found |= {part: refused for part, _ in parts}
    return found


def pin_refused(model: nn.Module, walk: Walk) -> dict[str, Refused]:
    """Pin the tensors of modules that cannot be narrowed from outside; returns these modules."""
    refused_by_name = refused_modules(model)
    if not refused_by_name:
        return {}
    leaves = _Leaves(model, walk)
    found: list[tuple[Tensor, Pin]] = []
    for name, refused in refused_by_name.items():
        inside = f"{refused.module}." if refused.module else ""
        read = {ref for ref, leaf in walk.program.leaves.items() if leaf.startswith(inside)}
        op = next((op for op in walk.program.ops if any(ref.id in read for ref in op.inputs())), None)
        pin = Pin(f"{refused.module or 'the model'}, {refused.reason}")
        if op is not None:
            pin = walk.pin(op, refused.reason)
        for tensor in own_tensors(model.get_submodule(name)).values():
            found += [(labels, pin) for labels in leaves.of(tensor).values()]
    walk.labels.pins[:0] = found  # the first reason is the one that is shown, and no rule knows a better one
    return refused_by_name


def find_sides(model: nn.Module, walk: Walk, refused: Container[str]) -> list[Side]:
    """All sides, in the order of ``named_modules``; bare tensors last, since modules give units their names.

    Args:
        model: The traced model.
        walk: Of its program.
        refused: Names of the modules to leave out.
    """
    leaves = _Leaves(model, walk)
    known: list[Side] = []
    bare: list[Side] = []
    read = _read(walk)
    for name, module in named_modules_of(model):
        if name in refused:
            continue
        spec = spec_of(module)
        tensors = own_tensors(module)
        if spec is not None:
            known += _known_sides(name, module, spec, leaves)
            tensors = {key: tensor for key, tensor in tensors.items() if key not in spec.tensors}
        for key, tensor in tensors.items():
            for dim, labels in leaves.of(tensor).items():
                reads = bool(read[labels.long()].all())  # a matrix of its own, that channels are multiplied with
                bare.append(Side(name, bare_side(key, tensor.shape, dim), reads, True, labels, [], (key, dim)))
    return known + bare


def _read(walk: Walk) -> Tensor:
    """Which labels a weight is contracted over."""
    read = torch.zeros(walk.labels.count, dtype=torch.bool)
    for labels in walk.consumed:
        read[labels.long()] = True
    return read


def _known_sides(name: str, module: nn.Module, spec: OpSpec, leaves: _Leaves) -> list[Side]:
    found: dict[str, list[Tensor]] = {side: [] for side in spec.sides}
    tensors = own_tensors(module)
    for attribute, dims in spec.tensors.items():
        vectors = leaves.of(tensors.get(attribute))
        for dim, side in enumerate(dims):
            if side is not None and dim in vectors:
                found[side].append(vectors[dim])
    if spec.groups is not None and spec.groups.within is not None and getattr(module, "groups", 1) > 1:
        _spread_groups(module, found)
    sides = []
    for key, role in spec.sides.items():
        if found[key]:
            sides.append(Side(name, key, role.is_input, role.is_output, found[key][0], found[key][1:]))
    return sides


def _spread_groups(module: nn.Module, found: dict[str, list[Tensor]]) -> None:
    """A grouped kernel lists one side for a single group; lay it out for all of them."""
    groups, transposed = int(module.groups), bool(getattr(module, "transposed", False))  # type: ignore[arg-type]
    full, inner = ("in_channels", "out_channels") if transposed else ("out_channels", "in_channels")
    size = int(getattr(module, inner))
    vectors = [v for v in found[inner] if v.numel() * groups == size]
    rest = [v for v in found[inner] if v.numel() == size]  # a transposed kernel's bias
    if size == groups:  # one channel a group: it goes with the group, where a group can go
        kernel = found[full][0] if found[full] else None
        can_go = kernel is not None and (not transposed or kernel.numel() == groups)
        spread = [kernel.reshape(groups, -1)[:, 0]] if kernel is not None and can_go else []
    else:
        spread = [v.repeat(groups) for v in vectors]
    found[inner] = spread + rest


def disagreeing_sides(sides: list[Side], root: Tensor) -> list[Side]:
    """Sides whose tensors disagree about which channel a position is: they can't be narrowed as the table says."""
    wrong = []
    for side in sides:
        classes = root[side.labels.long()]
        if any(not torch.equal(root[other.long()], classes) for other in side.others):
            wrong.append(side)
    return wrong
