"""Units that keep the channels which a criterion finds most important at the moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lightning_channels._plain import to_plain
from lightning_channels.errors import ConfigError
from lightning_channels.mutables import IndexSelection
from lightning_channels.registry import CRITERIA, UNITS
from lightning_channels.units.order import first_of, order_of
from lightning_channels.units.sequential import SequentialMutableChannelUnit

__all__ = ["L1MutableChannelUnit", "RankedMutableChannelUnit"]


@UNITS.register(aliases=("ranked",))
class RankedMutableChannelUnit(SequentialMutableChannelUnit):
    """Keeps the channels that score highest when a choice is set, by the weights at that moment, at full size.

    The scores are computed for each choice below the full width, also for that of a training step. :meth:`rank` goes
    before them, until it is given None.

    Args:
        num_channels: Number of channels.
        criterion: A registered criterion of the weights: its name, or a dict with ``type`` and arguments.
        choice_mode: Whether choices are numbers of channels (``"number"``) or shares of them (``"ratio"``).
        divisor: Choices are rounded to a multiple of it; the full width is always allowed.
        min_value: Fewest channels.
        min_ratio: Rounding loses at most ``1 - min_ratio`` of the channels.

    Raises:
        ConfigError: If an argument is not allowed, or if the criterion needs gradients.

    Example:
        >>> from lightning_channels import ChannelMutator
        >>> net = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 1))
        >>> net[0].weight.data = torch.tensor([[0.1], [-0.3], [0.2]])
        >>> filters = {"type": "l2", "tensors": ["outputs"]}
        >>> mutator = ChannelMutator({"type": "RankedMutableChannelUnit", "default_args": {"criterion": filters}})
        >>> mutator.prepare_from_supernet(net, torch.randn(1, 1))
        >>> mutator.set_choices({"0_(0, 3)_3": 2})
        >>> mutator.kept_channels()
        {'0_(0, 3)_3': [1, 2]}
    """

    def __init__(
        self,
        num_channels: int,
        criterion: str | Mapping[str, Any] = "l1",
        choice_mode: str = "number",
        divisor: int | str = 1,
        min_value: int = 1,
        min_ratio: float = 0.9,
    ) -> None:
        super().__init__(num_channels, choice_mode, divisor, min_value, min_ratio)
        if not isinstance(criterion, (str, Mapping)):
            raise ConfigError(
                f"criterion must be the name of a criterion or a dict with 'type', got {criterion!r}. For one that is "
                "no data, call unit.rank(scores)"
            )
        self.criterion: Any = to_plain(criterion, "criterion")
        self._criterion = CRITERIA.build({"type": criterion} if isinstance(criterion, str) else self.criterion)
        if not getattr(self._criterion, "ready", True):
            raise ConfigError(
                f"the criterion {criterion!r} collects gradients before it can score, and a {type(self).__name__} has "
                "none when a choice is set. Take a criterion of the weights, such as 'l1', or let ChannelPruning prune "
                "by it"
            )

    def prepare_for_pruning(self, model: nn.Module) -> None:
        """Turn the modules of this unit into dynamic ops, after seeing that the criterion can score its channels.

        Raises:
            StructureError: If the model lacks one of the modules.
            ConfigError: If the criterion finds nothing to score.
        """
        super().prepare_for_pruning(model)
        self._first_now(1)

    def keep_first(self, number: int) -> None:
        """Activate the ``number`` most important channels."""
        if self._order is not None or self.model is None or number == self.num_channels:
            super().keep_first(number)
        else:
            self._activate(self._first_now(number))

    def _first_now(self, number: int) -> int | IndexSelection:
        with torch.no_grad():
            scores = self._criterion(self)
        order = order_of(scores, self.num_channels, self.groups, f"unit {self.name!r}")
        return first_of(order, number, self.num_channels, self.groups)

    def _leads_to(self, active: int | IndexSelection, number: int) -> bool:
        """Whether a choice keeps these channels: which ones it does depends on the weights, but for all of them."""
        is_known = self._order is not None or number == self.num_channels
        return is_known and super()._leads_to(active, number)

    def init_args(self) -> dict[str, Any]:
        """The arguments that make an equal unit."""
        given = super().init_args()
        return {"num_channels": given.pop("num_channels"), "criterion": self.criterion, **given}


@UNITS.register(aliases=("l1",))
class L1MutableChannelUnit(RankedMutableChannelUnit):
    """Keeps the channels with the largest L1 norm of the weights that give them, when a choice is set.

    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017.

    Args:
        num_channels: Number of channels.
        choice_mode: Whether choices are numbers of channels (``"number"``) or shares of them (``"ratio"``).
        divisor: Choices are rounded to a multiple of it; the full width is always allowed.
        min_value: Fewest channels.
        min_ratio: Rounding loses at most ``1 - min_ratio`` of the channels.

    Raises:
        ConfigError: If an argument is not allowed.
    """

    def __init__(
        self,
        num_channels: int,
        choice_mode: str = "number",
        divisor: int | str = 1,
        min_value: int = 1,
        min_ratio: float = 0.9,
    ) -> None:
        criterion = {"type": "l1", "tensors": ["outputs"], "normalizer": None}
        super().__init__(num_channels, criterion, choice_mode, divisor, min_value, min_ratio)

    def init_args(self) -> dict[str, Any]:
        """The arguments that make an equal unit."""
        return {key: value for key, value in super().init_args().items() if key != "criterion"}
