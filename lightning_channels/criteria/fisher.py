"""The Fisher criterion, of the gates on what a unit's layers read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from lightning_channels._hooks import OwnHook
from lightning_channels._modules import is_sharded, module_at
from lightning_channels.criteria.collecting import CollectingCriterion, hook_on
from lightning_channels.criteria.combining import Normalizer
from lightning_channels.criteria.tensors import GroupTensor, group_tensors, owners
from lightning_channels.dynamic_ops import container_of, is_dynamic
from lightning_channels.registry import CRITERIA
from lightning_channels.units import Channel, MutableChannelUnit

__all__ = ["FisherCriterion"]


@CRITERIA.register("fisher")
class FisherCriterion(CollectingCriterion):
    """The Fisher information of a gate on the channel: the sum over the samples of the squared gradient of the gate.

    GroupFisher: Liu et al., "Group Fisher Pruning for Practical Network Compression", ICML 2021. One gate stands before
    each layer that reads the unit (a convolution or a linear layer), and those of all are one, so that their gradients
    are added up before they are squared. The scores are sums since the last :meth:`reset`, which the paper calls after
    each channel that it drops; the paper divides them by the memory or the operations that the channel costs.

    What a sample is, the first dim of a layer's input says. Where the layers of a unit read different numbers of rows
    (windows, not images), as many consecutive ones are one sample as it takes. A layer that isn't called with its
    input, such as ``out_proj`` of ``nn.MultiheadAttention``, a bare matrix, and a layer whose input needs no gradient
    tell the sum over the batch alone, through weight and gradient; the batch is one sample of the unit then, as it is
    in a compiled network, and where no weight reads the unit at all.

    Args:
        normalizer: See :func:`normalized`. The paper compares the scores of all units as they are (None), and takes one
            channel at a time; of many that go at once, whole units would be, whose gradients are small.

    Raises:
        ConfigError: If the normalizer is unknown.
    """

    def __init__(self, normalizer: Normalizer | None = "mean") -> None:
        super().__init__(normalizer=normalizer)
        self._samples: dict[str, list[Tensor]] = {}
        self._called: set[int] = set()

    def __call__(self, unit: MutableChannelUnit) -> Tensor:
        """The scores of a unit's channels, from what was collected; see :class:`Criterion`."""
        return self.combined(self.collected(unit).unsqueeze(0))

    def hooks(self, model: nn.Module, units: Sequence[MutableChannelUnit]) -> Iterator[RemovableHandle]:
        """Gates before the layers that read a unit, and for those that aren't called a hook on their weights."""
        self._samples, self._called = {}, set()
        runs: dict[int, list[tuple[MutableChannelUnit, Channel]]] = {}
        modules: dict[int, nn.Module] = {}
        weights: dict[int, list[tuple[str, int | None, GroupTensor]]] = {}
        for unit in units:
            # where channels end in a product of activations no weight reads them: they are gated where they are given
            gated = group_tensors(unit, ("inputs",)) or group_tensors(unit)
            called = dict(_layers(unit))
            for channel, module in called.items():
                modules[id(module)] = module
                runs.setdefault(id(module), []).append((unit, channel))
            by_name = {channel.name: id(module) for channel, module in called.items()}
            for tensor in gated:
                layer = by_name.get(tensor.name.rpartition(".")[0])
                weights.setdefault(id(tensor.parameter), []).append((unit.name, layer, tensor))
        for key, module in modules.items():
            yield module.register_forward_pre_hook(_Gate(self, runs[key]), with_kwargs=True)
        for held in weights.values():
            parameter = held[0][-1].parameter
            if parameter.requires_grad and not is_sharded(parameter):
                yield hook_on(parameter, _OfWeight(self, held))

    def note(self, unit: str, gradients: Tensor) -> None:
        """Note the gradients of a unit's gate, shape (samples, channels)."""
        self._samples.setdefault(unit, []).append(gradients)

    def noted(self) -> dict[str, Tensor]:
        """The sums of squares over the samples."""
        samples, self._samples = self._samples, {}
        self._called.clear()
        return {unit: _together(parts).square().sum(0) for unit, parts in samples.items()}

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_samples": {}, "_called": set()}


def _layers(unit: MutableChannelUnit) -> Iterator[tuple[Channel, nn.Module]]:
    """The convolutions and linear layers that read a unit."""
    for channel in unit.input_related:
        assert unit.model is not None
        module = module_at(unit.model, channel.name)
        if channel.tensor is None and isinstance(module, (_ConvNd, nn.Linear)) and is_dynamic(module):
            yield channel, module


def _together(parts: Sequence[Tensor]) -> Tensor:
    """The sum of the layers' gradients, where rows of one sample are added up first."""
    count = math.gcd(*(len(part) for part in parts))
    return torch.stack([part.reshape(count, -1, part.shape[1]).sum(1).to(parts[0]) for part in parts]).sum(0)


class _Gate(OwnHook):
    """Before one layer: lets its input through, and notes the gradients of the gates on it."""

    def __init__(self, criterion: FisherCriterion, runs: Sequence[tuple[MutableChannelUnit, Channel]]) -> None:
        self._criterion = criterion
        self._units = [
            (unit.name, unit.num_channels, channel, owners(channel, unit.num_channels)) for unit, channel in runs
        ]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The arguments, with a gate on the first."""
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return None
        taken = bool(args) and isinstance(args[0], Tensor) and args[0].requires_grad
        if not taken or not torch.is_grad_enabled():
            return None
        self._criterion._called.add(id(module))
        return (_Through.apply(args[0], self, module), *args[1:]), kwargs

    def note(self, module: nn.Module, gates: Tensor) -> None:
        """Note the gradients of the gates on all active channels of the layer's input, shape (samples, channels)."""
        kept = container_of(module, False).kept.to(gates.device)
        full = gates.new_zeros(len(gates), container_of(module, False).num_channels)
        full[:, kept] = gates
        for name, count, channel, owner in self._units:
            own = full.new_zeros(len(full), count)
            own.index_add_(1, owner.to(full.device), full[:, channel.start : channel.end])
            self._criterion.note(name, own)


class _Through(torch.autograd.Function):
    """A tensor as it is; its gradient is that of one layer alone, whatever else reads the tensor."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, gate: _Gate, module: nn.Module) -> Tensor:
        ctx.save_for_backward(tensor)
        ctx.gate, ctx.module = gate, module
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (tensor,) = ctx.saved_tensors
        with torch.no_grad():
            ctx.gate.note(ctx.module, _gates(ctx.module, tensor, gradient))
        return gradient, None, None


def _gates(module: nn.Module, tensor: Tensor, gradient: Tensor) -> Tensor:
    """The sum of value times gradient over all places of a channel, shape (samples, channels)."""
    places = len(module.kernel_size) if isinstance(module, _ConvNd) else 0
    wide = torch.promote_types(tensor.dtype, torch.float32)
    products = (tensor.to(wide) * gradient.to(wide)).movedim(-1 - places, -1)
    batched = products.dim() > 1 + places
    products = products.flatten(1, -2) if batched and products.dim() > 2 else products.reshape(-1, products.shape[-1])
    if not batched:
        return products.sum(0, keepdim=True)
    return products.sum(1) if products.dim() == 3 else products


class _OfWeight:
    """A hook on the weight of layers that read units, for a pass in which these weren't called with their input."""

    def __init__(self, criterion: FisherCriterion, held: Sequence[tuple[str, int | None, GroupTensor]]) -> None:
        self._criterion = criterion
        self._held = held

    @torch.no_grad()
    def __call__(self, gradient: Tensor) -> None:
        for unit, layer, tensor in self._held:
            if layer is None or layer not in self._criterion._called:
                products = tensor.values() * tensor.values(gradient)
                self._criterion.note(unit, tensor.sums(products).unsqueeze(0))
