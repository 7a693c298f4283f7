"""The first-order Taylor criterion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_channels._modules import is_sharded
from lightning_channels.criteria.collecting import CollectingCriterion, hook_on
from lightning_channels.criteria.combining import Normalizer, Reduction
from lightning_channels.criteria.tensors import KINDS, GroupTensor, Kind
from lightning_channels.errors import ConfigError, PrepareError
from lightning_channels.registry import CRITERIA
from lightning_channels.units import MutableChannelUnit

__all__ = ["TaylorCriterion"]

Entry = tuple[str, int, int, GroupTensor]
"""(unit, how many tensors it has, which of them this is, the tensor)."""


@CRITERIA.register("taylor")
class TaylorCriterion(CollectingCriterion):
    """How much the loss would change without the channel's weights, to first order, squared: the mean over the passes.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019. It is the gradient of each backward
    pass of each process that counts (in the paper, of each batch), not that of an optimizer step.

    Args:
        joint: False: the sum over the weights w with gradients g of (g·w)², weight by weight. True: the square of the
            sum of g·w, which is what a gate on the channel gives. The paper has both.
        reduction: Over the unit's tensors; see :class:`Criterion`.
        normalizer: See :func:`normalized`. The paper compares the scores of all layers as they are (None), and takes
            few channels at a time; of many that go at once, whole units would be, whose gradients are small.
        tensors: Which tensors count; see :class:`Criterion`.

    Raises:
        ConfigError: If an argument isn't allowed.
    """

    def __init__(
        self,
        joint: bool = False,
        reduction: Reduction = "sum",
        normalizer: Normalizer | None = "mean",
        tensors: Sequence[Kind] = KINDS,
    ) -> None:
        super().__init__(reduction, normalizer, tensors)
        if not isinstance(joint, bool):
            raise ConfigError(f"TaylorCriterion: joint must be true or false, got {joint!r}")
        self.joint = joint
        self._noted: dict[str, list[Tensor | None]] = {}

    def __call__(self, unit: MutableChannelUnit) -> Tensor:
        """The scores of a unit's channels, from what was collected; see :class:`Criterion`."""
        return self.combined(self.collected(unit) / self.passes)

    def shape(self, unit: MutableChannelUnit) -> tuple[int, ...]:
        """One row for each tensor."""
        return len(self.tensors_of(unit)), unit.num_channels

    def hooks(self, model: nn.Module, units: Sequence[MutableChannelUnit]) -> Iterator[RemovableHandle]:
        """A hook on each parameter: it is called with the gradient of one pass, before that is accumulated."""
        self._noted = {}
        entries: dict[int, list[Entry]] = {}
        for unit in units:
            tensors = self.tensors_of(unit)
            for row, tensor in enumerate(tensors):
                entries.setdefault(id(tensor.parameter), []).append((unit.name, len(tensors), row, tensor))
        for held in entries.values():
            tensor = held[0][-1]
            if is_sharded(tensor.parameter):
                raise PrepareError(f"TaylorCriterion needs whole parameters, and {tensor.name} is sharded")
            if tensor.parameter.requires_grad:
                yield hook_on(tensor.parameter, _Note(self, held))

    def note(self, gradient: Tensor, entries: Sequence[Entry]) -> None:
        """Note what the gradient of a parameter gives the units that it belongs to."""
        first = entries[0][-1]
        products = first.values() * first.values(gradient)
        if not self.joint:
            products.square_()
        for name, count, row, tensor in entries:
            given = tensor.sums(products).square() if self.joint else tensor.sums(products)
            rows = self._noted.setdefault(name, [None] * count)
            before = rows[row]
            rows[row] = given if before is None else before + given

    def noted(self) -> dict[str, Tensor]:
        """The rows of each unit; zeros for tensors that had no gradient."""
        noted, self._noted = self._noted, {}
        return {name: _stacked(rows) for name, rows in noted.items()}

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_noted": {}}


class _Note:
    """A hook of one parameter."""

    def __init__(self, criterion: TaylorCriterion, entries: Sequence[Entry]) -> None:
        self._criterion = criterion
        self._entries = entries

    @torch.no_grad()
    def __call__(self, gradient: Tensor) -> None:
        self._criterion.note(gradient, self._entries)


def _stacked(rows: Sequence[Tensor | None]) -> Tensor:
    known = next(row for row in rows if row is not None)
    return torch.stack([torch.zeros_like(known) if row is None else row.to(known) for row in rows])
