"""The proof: a unit is mutable only if the model, run narrow, computes what its recorded operators compute when narrow.

"It ran without an error" proves nothing: a hard-coded ``unflatten(-1, (4, -1))`` runs with two of four heads gone and
computes something else. So the narrowed Python model is compared with :class:`lightning_channels.tracing.Replay`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from lightning_channels.mutables import batch_update
from lightning_channels.tracing import ModuleGraph
from lightning_channels.tracing.recorder import tensors_in
from lightning_channels.tracing.replay import Replay, UnsupportedReplayError
from lightning_channels.tracing.running import ExampleInputs, call, check_inputs, doubled, evaluating
from lightning_channels.units import MutableChannelUnit

__all__ = ["Proof"]

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True, slots=True)
class _Failure:
    """What was wrong, and the innermost module that was running when the model failed, if one was."""

    reason: str
    module: str = ""

    def concerns(self, unit: MutableChannelUnit) -> bool:
        """Whether the unit is on that module, or on one inside it."""
        inside = f"{self.module}."
        return bool(self.module) and any(f"{channel.name}.".startswith(inside) for channel in unit.channels)


class Proof:
    """Runs a prepared model narrow and refuses the units for which that comes out wrong.

    All units are narrowed together, at their smallest and at a random set of channels; only inside a set that fails are
    units tried apart. The accepted set grows in passes, because a unit may be right only together with another one.

    Args:
        graph: The traced model.
        units: One for each of the graph's groups, in their order.
        inputs: Example inputs.
    """

    def __init__(self, graph: ModuleGraph, units: list[MutableChannelUnit], inputs: ExampleInputs) -> None:
        self._graph = graph
        self._groups = {id(unit): group for unit, group in zip(units, graph.groups, strict=True)}
        self._units = [unit for unit in units if unit.is_mutable]
        self._inputs = inputs
        self._draws = {id(unit): self._draw(unit, number) for number, unit in enumerate(self._units)}
        self._tensors: dict[str, Tensor] = {}
        self._overrides: dict[str, Tensor] = {}

    def _draw(self, unit: MutableChannelUnit, number: int) -> list[Tensor]:
        """The kept channels of each trial: the first alone, and a random set; never all of them.

        Each unit gets a size of its own: where sizes agree by chance, sizes that were mixed up go unnoticed.
        """
        generator = torch.Generator("cpu").manual_seed(number)
        inside = unit.num_channels // unit.groups
        keep = int(torch.randint(1, inside, (), generator=generator, device="cpu"))
        chosen = torch.randperm(inside, generator=generator, device="cpu")[:keep].sort().values
        return [torch.tensor([0]), chosen]

    def run(self, model: nn.Module) -> None:
        """Refuse the units that fail: their ``reason`` says why, and their modules keep their full width."""
        self._tensors = dict([*model.named_parameters(), *model.named_buffers()])
        self._overrides = _randomised(self._tensors)
        self._tensors |= self._overrides
        before = {id(unit): unit.mutable_channel.kept for unit in self._units}
        self._widen(self._units)  # units that aren't tried are at full width, wherever their type lets them start
        with evaluating(model):
            accepted, rest = self._set_aside(model)
            problems: dict[int, str] = {}
            while rest:
                left = self._grow(model, accepted, rest, problems)
                if len(left) == len(rest):
                    break
                rest = left
            for unit in rest:
                unit.detach(model)
                unit.reason = problems[id(unit)]
            for unit in accepted:
                unit.keep(before[id(unit)])

    @staticmethod
    def _widen(units: list[MutableChannelUnit]) -> None:
        with batch_update():
            for unit in units:
                unit.mutable_channel.keep(unit.num_channels)

    def _set_aside(self, model: nn.Module) -> tuple[list[MutableChannelUnit], list[MutableChannelUnit]]:
        """Units that pass together, and the others: as long as a module fails, the units that are on it leave."""
        accepted, aside = list(self._units), list[MutableChannelUnit]()
        while (failure := self._try(model, accepted)) is not None:
            blamed = [unit for unit in accepted if failure.concerns(unit)] or accepted
            accepted = [unit for unit in accepted if unit not in blamed]
            aside += blamed
        return accepted, aside

    def _grow(
        self,
        model: nn.Module,
        accepted: list[MutableChannelUnit],
        units: list[MutableChannelUnit],
        problems: dict[int, str],
    ) -> list[MutableChannelUnit]:
        """Add to ``accepted`` what passes with it; returns what doesn't."""
        failure = self._try(model, [*accepted, *units])
        if failure is None:
            accepted += units
            return []
        if len(units) == 1:
            problems[id(units[0])] = failure.reason
            return units
        half = len(units) // 2
        left = self._grow(model, accepted, units[:half], problems)
        return left + self._grow(model, accepted, units[half:], problems)

    def _try(self, model: nn.Module, units: list[MutableChannelUnit]) -> _Failure | None:
        """What is wrong with narrowing ``units`` together; ``None`` if nothing is."""
        try:
            for trial in range(2 if units else 0):
                kept = {id(unit): self._draws[id(unit)][trial] for unit in units}
                with batch_update():
                    for unit in units:
                        inside = unit.num_channels // unit.groups
                        unit.keep(torch.cat([kept[id(unit)] + g * inside for g in range(unit.groups)]))
                failure = self._compare(model, units, kept)
                if failure is not None:
                    return failure
        finally:
            self._widen(units)
        return None

    def _compare(self, model: nn.Module, units: list[MutableChannelUnit], kept: dict[int, Tensor]) -> _Failure | None:
        outputs = self._run(model, training=False)
        if isinstance(outputs, _Failure):
            return outputs
        dropped = []
        for unit in units:
            classes = self._groups[id(unit)].classes
            gone = torch.ones(len(classes), dtype=torch.bool)
            gone[kept[id(unit)]] = False
            dropped.append(classes[gone])
        try:
            inputs = list(tensors_in(check_inputs(self._inputs)))
            expected = Replay(self._graph, dropped).run(self._tensors, inputs)
        except UnsupportedReplayError as error:
            return _Failure(f"{error}, which cannot be checked")
        difference = _difference(outputs, expected)
        if difference is not None:
            return _Failure(difference)
        if self._graph.training is None:
            return None
        trained = self._run(model, training=True)  # there are heads that eval mode doesn't run
        return trained if isinstance(trained, _Failure) else None

    def _run(self, model: nn.Module, training: bool) -> list[Tensor] | _Failure:
        """What the narrow model returns, or how it fails."""
        inputs = doubled(self._inputs) if training else check_inputs(self._inputs)
        model.train()
        model.train(training)
        saved = _swap(model, self._overrides)
        where = [""]
        try:
            with torch.no_grad(), _running_module(model, where):
                return list(tensors_in(call(model, inputs)))
        except Exception as error:
            detail = " ".join(str(error).split())[:200]
            place = where[0] or "the model"
            return _Failure(f"{place} fails when it is narrow: {type(error).__name__}: {detail}", where[0])
        finally:
            _swap(model, saved)


def _randomised(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Random values for the tensors that are constant: a fresh norm's ones, or a gamma of zeros, would hide errors."""
    generator = torch.Generator("cpu").manual_seed(1)
    overrides = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.numel() < 2:
            continue
        first = tensor.detach().flatten()[0]
        if bool((tensor.detach() == first).all()):
            noise = torch.rand(tensor.shape, generator=generator, device="cpu").to(tensor.device, tensor.dtype)
            overrides[name] = noise * 0.5 + (0.5 if float(first) > 0.5 else -0.25)
    return overrides


def _swap(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Exchange the data of tensors for a while, without touching the tensors' identity."""
    own = dict([*model.named_parameters(), *model.named_buffers()])
    saved = {}
    for name, value in tensors.items():
        saved[name] = own[name].data
        own[name].data = value
    return saved


@contextmanager
def _running_module(model: nn.Module, where: list[str]) -> Iterator[None]:
    """Keep the dotted name of the innermost module that is running, also when it fails."""
    names = {module: name for name, module in model.named_modules()}
    stack: list[str] = []

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(names.get(module, stack[-1] if stack else ""))
        where[0] = stack[-1]

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()
        where[0] = stack[-1] if stack else ""

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _difference(outputs: list[Tensor], expected: list[Tensor]) -> str | None:
    if len(outputs) != len(expected):
        return f"the narrow model returns {len(outputs)} tensors instead of {len(expected)}"
    for out, want in zip(outputs, expected, strict=True):
        if out.shape != want.shape:
            return f"the narrow model returns a tensor of shape {list(out.shape)} instead of {list(want.shape)}"
        if not out.is_floating_point():
            continue
        scale = want.double().abs().max().clamp_min(1e-30)
        error = float((out.double() - want.double()).abs().max() / scale)
        if not error <= _TOLERANCE.get(out.dtype, 1e-4):
            return f"the narrow model computes something else than its operators do (relative difference {error:.1e})"
    return None
