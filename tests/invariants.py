"""The invariants that hold for every model that is called supported, each as a check that any test can run."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator, export_subnet
from lightning_channels.dynamic_ops import containers, is_dynamic
from lightning_channels.dynamic_ops.spec import layout
from lightning_channels.tracing.recorder import tensors_in
from lightning_channels.tracing.running import call


def run(model: nn.Module, inputs: Any) -> list[Tensor]:
    return list(tensors_in(call(model, inputs)))


def loss(outputs: list[Tensor]) -> Tensor:
    """Depends on every element of every output, each with another weight."""
    total = outputs[0].new_zeros(())
    for out in outputs:
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).cos().reshape(out.shape)
        total = total + (out * weights).mean()
    return total


def relative(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


def gradients(model: nn.Module, inputs: Any) -> dict[str, Tensor | None]:
    model.zero_grad(set_to_none=True)
    loss(run(model, inputs)).backward()
    return {name: p.grad for name, p in model.named_parameters()}


# --- choices
# ----------------------------------------------------------------------------------------------------------------


def narrow(mutator: ChannelMutator, seed: int, prefix: bool, only_exact: bool = False) -> None:
    """Set every mutable unit to a random width, of the first or of any channels; never all of them."""
    rng = random.Random(seed)
    for unit in mutator.mutable_units:
        if only_exact and not unit.exact:
            continue
        inside = unit.num_channels // unit.groups
        count = rng.randint(1, inside - 1)
        kept = list(range(count)) if prefix else sorted(rng.sample(range(inside), count))
        unit.keep([group * inside + channel for group in range(unit.groups) for channel in kept])
        assert unit.mutable_channel.activated_channels == count * unit.groups


def active_parts(model: nn.Module) -> Iterator[tuple[str, list[tuple[int, Tensor]]]]:
    """(parameter name, (dim, kept indices) of each dim) for every parameter of the dynamic modules."""
    for name, module in model.named_modules():
        if not is_dynamic(module):
            continue
        own, table = containers(module), layout(module)
        for key in module._parameters:
            dims = []
            for dim, side, groups in table.get(key, ()):
                mask = own[side].current_mask.reshape(groups, -1)
                dims.append((dim, mask[0].nonzero().flatten()))
            for side, container in own.items():
                if side == key or side.startswith(f"{key}["):
                    parameter = module._parameters[key]
                    assert parameter is not None
                    dim = parameter.shape.index(container.num_channels) if side == key else int(side[len(key) + 1 : -1])
                    dims.append((dim, container.kept))
            yield f"{name}.{key}" if name else key, dims


def masked(plain: nn.Module, mutator: ChannelMutator) -> nn.Module:
    """The plain model with the dropped channels' influence removed: what reads them is multiplied by zero."""
    model = copy.deepcopy(plain)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for unit in mutator.mutable_units:
            mask = unit.mutable_channel.current_mask
            for channel in unit.input_related:
                module = modules[channel.name]
                if not hasattr(module, "weight") or module.weight is None or module.weight.dim() < 2:
                    continue  # a norm scales channels but doesn't mix them
                transposed = getattr(module, "transposed", False)
                dim, groups = (0, 1) if transposed else (1, getattr(module, "groups", 1))
                if module.weight.shape[dim] == 1 and groups > 1:
                    continue  # depthwise: neither does this
                index = torch.arange(unit.num_channels).repeat_interleave(channel.expand_ratio)
                if channel.index is not None:
                    index = torch.tensor(channel.index)
                dropped = (~mask[index]).nonzero().flatten() + channel.start
                if groups > 1:
                    dropped = dropped[dropped < module.weight.shape[dim]]
                module.weight.index_fill_(dim, dropped, 0.0)
    return model


# --- checks
# -----------------------------------------------------------------------------------------------------------------


def check_state_untouched(plain: nn.Module, prepared: nn.Module, before: dict[str, Any]) -> None:
    """Invariant 1: parameter identity, keys and values; loads both ways."""
    tensors = dict([*prepared.named_parameters(), *prepared.named_buffers()])
    assert list(tensors) == list(before)
    assert all(tensors[name] is before[name] for name in tensors)
    state, original = prepared.state_dict(), plain.state_dict()
    assert list(state) == list(original)
    assert all(torch.equal(state[key], original[key]) for key in state)
    assert getattr(state, "_metadata", None) == getattr(original, "_metadata", None)
    prepared.load_state_dict(original)
    copy.deepcopy(plain).load_state_dict(state)
    assert [name for name, _ in prepared.named_modules()] == [name for name, _ in plain.named_modules()]


def check_full_width(plain: nn.Module, prepared: nn.Module, inputs: Any) -> None:
    """Invariant 2: bit-identical outputs, gradients and statistics, in eval and train mode."""
    for training in (False, True):
        results = []
        for model in (copy.deepcopy(plain), copy.deepcopy(prepared)):
            model.train(training)
            torch.manual_seed(0)
            grads = gradients(model, inputs)
            torch.manual_seed(0)
            results.append((run(model, inputs), grads, dict(model.named_buffers())))
        (outputs, grads, buffers), (own_outputs, own_grads, own_buffers) = results
        assert all(torch.equal(a, b) for a, b in zip(outputs, own_outputs, strict=True))
        for name, grad in grads.items():
            own = own_grads[name]
            assert (grad is None) == (own is None), name
            assert grad is None or (own is not None and torch.equal(grad, own)), name
        assert all(torch.equal(buffers[name], own_buffers[name]) for name in buffers)


def check_exported(prepared: nn.Module, inputs: Any, tolerance: float) -> nn.Module:
    """Invariant 3: the dynamic model and the exported static one agree."""
    exported = export_subnet(prepared)
    assert not any(is_dynamic(module) for module in exported.modules())
    assert all(type(a).__module__.split(".")[0] != "lightning_channels" for a in exported.modules())
    with torch.no_grad():
        for a, b in zip(run(prepared, inputs), run(exported, inputs), strict=True):
            assert relative(a, b) <= tolerance
    buffer = io.BytesIO()
    torch.save(exported, buffer)
    assert b"lightning_channels" not in buffer.getvalue()
    return exported


def check_masked(plain: nn.Module, prepared: nn.Module, mutator: ChannelMutator, inputs: Any, tolerance: float) -> None:
    """Invariant 3: the dynamic model and the full one with the dropped channels' influence removed agree."""
    reference = masked(plain, mutator)
    with torch.no_grad():
        full = run(plain, inputs)
        for a, b, c in zip(run(prepared, inputs), run(reference, inputs), full, strict=True):
            assert relative(a, b) <= tolerance
            assert relative(b, c) > 1e-4, "dropping channels changed nothing, so nothing was tested"


def check_gradients(prepared: nn.Module, exported: nn.Module, inputs: Any, tolerance: float) -> None:
    """Gradients of the active slices equal the exported twin's, and are zero elsewhere."""
    own, twin = gradients(prepared, inputs), gradients(exported, inputs)
    sliced = dict(active_parts(prepared))
    assert sliced
    scale = max(float(grad.abs().max()) for grad in twin.values() if grad is not None)
    for name, grad in twin.items():
        if grad is None:
            assert own[name] is None or not bool(own[name].any())
            continue
        full = own[name]
        assert full is not None, f"{name} has no gradient"
        active, rest = full, full.clone()
        for dim, kept in sliced.get(name, []):
            active = active.index_select(dim, kept)
        _zero(rest, sliced.get(name, []))
        assert active.shape == grad.shape, name
        assert float((active - grad).abs().max()) <= tolerance * scale, name
        assert not bool(rest.any()), f"inactive channels of {name} have a gradient"


def _zero(tensor: Tensor, dims: list[tuple[int, Tensor]]) -> None:
    inside = torch.ones(tensor.shape, dtype=torch.bool)
    for dim, kept in dims:
        mask = torch.zeros(tensor.shape[dim], dtype=torch.bool)
        mask[kept] = True
        inside &= mask.view([-1 if d == dim else 1 for d in range(tensor.dim())])
    tensor[inside] = 0
