"""What criteria share that collect something while a model trains."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_channels.criteria.base import Criterion
from lightning_channels.criteria.combining import Normalizer, Reduction
from lightning_channels.criteria.tensors import KINDS, Kind, group_tensors
from lightning_channels.errors import ConfigError, PrepareError, check_keys
from lightning_channels.units import MutableChannelUnit

__all__ = ["CollectingCriterion", "hook_on", "sum_over_ranks"]

_KEYS = ("sums", "passes")


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all processes of ``torch.distributed``, where there are several."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def hook_on(parameter: Tensor, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call a hook with the gradient that a backward pass gives a parameter, before that is accumulated."""
    handle: RemovableHandle = parameter.register_hook(hook)  # type: ignore[no-untyped-call]
    return handle


class CollectingCriterion(Criterion):
    """A criterion that adds up numbers for each channel over the backward passes of a training.

    Hooks note what belongs to a pass while it runs, and :meth:`after_backward` adds it: each pass counts once, however
    many of them a step accumulates, and the training computes what it computes without. In several processes each notes
    its own batches, and :meth:`after_backward` adds those of all, so that all have the same sums; they must call it
    equally often. A pass in which something isn't finite counts nowhere, as it makes no step.

    A subclass says what it notes (:meth:`hooks`, :meth:`noted`), which numbers a unit has (:meth:`shape`), and what
    scores they give.

    Args:
        reduction: See :class:`Criterion`, as the others.
        normalizer: Of a unit's scores.
        tensors: Which tensors count.

    Attributes:
        loss_scale: What the loss of the coming passes is multiplied by (``GradScaler.get_scale()``); the sums don't
            depend on it.
        sum_over_ranks: Adds a tensor up over all processes; by default those of ``torch.distributed``.
        passes: How many passes were added up, over all processes.
    """

    def __init__(
        self,
        reduction: Reduction = "sum",
        normalizer: Normalizer | None = None,
        tensors: Sequence[Kind] = KINDS,
    ) -> None:
        super().__init__(reduction, normalizer, tensors)
        self.loss_scale = 1.0
        self.sum_over_ranks: Callable[[Tensor], Tensor] = sum_over_ranks
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._sums: Tensor | None = None  # those of all units one after the other, and the number of passes at the end
        self._handles: list[RemovableHandle] = []
        self._started = False
        self._parameter: Tensor | None = None  # where it is, the sums are as well

    # --- what a subclass says ----------------------------------------------------------------------------------------

    def shape(self, unit: MutableChannelUnit) -> tuple[int, ...]:
        """Shape of the numbers that are collected for a unit; the last dim is that of its channels."""
        return (unit.num_channels,)

    @abstractmethod
    def hooks(self, model: nn.Module, units: Sequence[MutableChannelUnit]) -> Iterator[RemovableHandle]:
        """Put on what notes a pass, one after the other."""

    @abstractmethod
    def noted(self) -> dict[str, Tensor]:
        """What the last pass gave, of the second degree in the gradients, by unit; forgotten by this call."""

    # --- collecting --------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:  # type: ignore[override]
        """Whether something was collected."""
        return self.passes > 0

    @property
    def passes(self) -> int:
        """How many passes were collected."""
        return 0 if self._sums is None else int(self._sums[-1])

    def start(self, model: nn.Module, units: Sequence[MutableChannelUnit]) -> None:
        """Collect from now on; what was collected before, or loaded, is kept.

        Args:
            model: The prepared model.
            units: Those to be scored.

        Raises:
            ConfigError: If a unit can't be scored, or if what was collected belongs to other units.
            PrepareError: If the model can't be watched.
        """
        self.stop()
        shapes = {unit.name: self.shape(unit) for unit in units}
        if self._sums is not None and shapes != self._shapes:
            raise ConfigError(
                f"{type(self).__name__} has collected for the units {list(self._shapes)}, of other sizes or names than "
                f"{list(shapes)}; call reset() to begin anew"
            )
        self._shapes, self._started = shapes, True
        self._parameter = next((tensor.parameter for unit in units for tensor in group_tensors(unit)), None)
        try:
            for handle in self.hooks(model, units):
                self._handles.append(handle)
        except BaseException:
            self.stop()
            raise

    def after_backward(self) -> None:
        """Add what the backward pass that has just ended gave."""
        if not self._started:
            raise PrepareError(f"{type(self).__name__} isn't collecting; call start(model, units) first")
        noted = self.noted()
        device = torch.device("cpu") if self._parameter is None else self._parameter.device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no double precision
        flat = torch.zeros(sum(map(math.prod, self._shapes.values())) + 1, dtype=dtype, device=device)
        start = 0
        for name, shape in self._shapes.items():
            if name in noted:
                flat[start : start + math.prod(shape)] = noted[name].flatten() / self.loss_scale**2
            start += math.prod(shape)
        flat[-1] = float(bool(noted))
        flat = self.sum_over_ranks(flat)
        flat = torch.where(flat.isfinite().all(), flat, torch.zeros_like(flat))  # without waiting for the device
        self._sums = flat if self._sums is None else self._sums.to(device) + flat

    def reset(self) -> None:
        """Forget what was collected."""
        self._sums = None

    def stop(self) -> None:
        """Take the hooks off; what was collected stays."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._parameter, self._started = [], None, False

    # --- scores ------------------------------------------------------------------------------------------------------

    def collected(self, unit: MutableChannelUnit) -> Tensor:
        """The sums of a unit, float64 on the CPU.

        Raises:
            ConfigError: If nothing was collected for it.
        """
        sums = self._by_unit()
        if unit.name not in sums or not self.ready:
            raise ConfigError(
                f"{type(self).__name__} has collected nothing for unit {unit.name!r}; call start(model, units) with "
                "it, and after_backward() after each backward pass of a training"
            )
        return sums[unit.name]

    def _by_unit(self) -> dict[str, Tensor]:
        if self._sums is None:
            return {}
        flat = self._sums.to("cpu", torch.float64)[:-1]
        parts = torch.split(flat, [math.prod(shape) for shape in self._shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    # --- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What was collected, as tensors by unit; equal in all processes."""
        return {"sums": {name: value.clone() for name, value in self._by_unit().items()}, "passes": self.passes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what another one had collected; nothing is changed if it doesn't fit.

        Raises:
            ConfigError: If it isn't what :meth:`state_dict` returns.
        """
        who = f"the state of {type(self).__name__}"
        check_keys(state, _KEYS, who)
        sums, passes = state.get("sums"), state.get("passes")
        if not isinstance(sums, Mapping) or isinstance(passes, bool) or not isinstance(passes, int) or passes < 0:
            raise ConfigError(f"{who} must have 'sums' by unit and a number of 'passes', got {passes!r}")
        for name, value in sums.items():
            if not isinstance(value, Tensor) or not value.is_floating_point() or not bool(value.isfinite().all()):
                raise ConfigError(f"{who} must have a tensor of finite numbers for unit {name!r}")
            if self._started and tuple(value.shape) != self._shapes.get(name):
                raise ConfigError(f"{who} has {tuple(value.shape)} numbers for {name!r}, not {self._shapes.get(name)}")
        if self._started and passes and sums.keys() != self._shapes.keys():
            raise ConfigError(f"{who} is one of the units {list(sums)}, not of {list(self._shapes)}")
        if not passes:
            self._sums = None
            return
        order = self._shapes if self._started else sums
        self._shapes = {name: tuple(sums[name].shape) for name in order}
        parts = [sums[name].detach().to("cpu", torch.float64).flatten() for name in order]
        self._sums = torch.cat([*parts, torch.tensor([float(passes)], dtype=torch.float64)])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": [], "_parameter": None, "_started": False}
