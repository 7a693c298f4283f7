"""The mutator of slimmable networks: a few subnets, each of them one candidate of every unit."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

from lightning_channels._plain import is_int
from lightning_channels.errors import ChoiceError, ConfigError
from lightning_channels.mutables import batch_update
from lightning_channels.mutators.channel_mutator import ChannelMutator
from lightning_channels.mutators.steering import check_kind
from lightning_channels.registry import MUTATORS
from lightning_channels.units import SlimmableChannelUnit
from lightning_channels.units.choosing import Choice

__all__ = ["SlimmableChannelMutator"]

_LISTED = 3


@MUTATORS.register(aliases=("slimmable",))
class SlimmableChannelMutator(ChannelMutator):
    """Steers a model through a few subnets: subnet *i* is the *i*-th candidate of every unit.

    All mutable units must have equally many candidates. Batch norms have parameters and statistics of their own for
    each subnet; the widest one's are those of the plain model. A random choice is one of the subnets.

    Args:
        channel_unit_cfg: As for :class:`ChannelMutator`, of the type ``SlimmableChannelUnit`` or a subclass.
        parse_cfg: As for :class:`ChannelMutator`.

    Raises:
        ConfigError: If the units are of another type, or as for :class:`ChannelMutator`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3))
        >>> unit = {"type": "SlimmableChannelUnit", "default_args": {"candidate_choices": [2, 4, 8]}}
        >>> mutator = SlimmableChannelMutator(unit, {"type": "ForwardTracer", "input_shape": [1, 3, 8, 8]})
        >>> mutator.prepare_from_supernet(model)
        >>> mutator.subnets
        [{'0_(0, 8)_8': 2}, {'0_(0, 8)_8': 4}, {'0_(0, 8)_8': 8}]
        >>> mutator.current_subnet
        2
    """

    def __init__(
        self,
        channel_unit_cfg: str | type | Mapping[str, Any] = "SlimmableChannelUnit",
        parse_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(channel_unit_cfg, Mapping) and "type" not in channel_unit_cfg:
            channel_unit_cfg = {"type": "SlimmableChannelUnit", **channel_unit_cfg}
        super().__init__(channel_unit_cfg, parse_cfg)
        if not issubclass(self.unit_config.unit_class, SlimmableChannelUnit):
            raise ConfigError(
                f"{type(self).__name__} needs units of the type SlimmableChannelUnit, got {self.unit_config.type_name};"
                " ChannelMutator takes any type"
            )

    # --- subnets -----------------------------------------------------------------------------------------------------

    @property
    def subnets(self) -> list[dict[str, int | float]]:
        """The choices of each subnet, the narrowest first.

        Raises:
            PrepareError: If no model is prepared.
        """
        units = self._slimmable_units
        candidates = [unit.candidate_choices for unit in units]
        return [
            {unit.name: choices[subnet] for unit, choices in zip(units, candidates, strict=True)}
            for subnet in range(self.num_subnets)
        ]

    @property
    def num_subnets(self) -> int:
        """How many subnets there are."""
        units = self._slimmable_units
        return len(units[0].candidate_numbers) if units else 0

    @property
    def current_subnet(self) -> int | None:
        """The number of the active subnet; None where units stand at different ones."""
        active = {unit.current_candidate for unit in self._slimmable_units}
        return active.pop() if len(active) == 1 else None

    def set_subnet(self, subnet: int) -> None:
        """Activate a subnet.

        Args:
            subnet: Its number, counted from 0, the narrowest.

        Raises:
            ChoiceError: If there is no such subnet.
        """
        if not is_int(subnet) or not 0 <= subnet < self.num_subnets:
            raise ChoiceError(f"there is no subnet {subnet!r}; allowed are 0 to {self.num_subnets - 1}")
        with batch_update():
            for unit in self._slimmable_units:
                unit.current_candidate = subnet
        self.widths_changed()

    @property
    def _slimmable_units(self) -> list[SlimmableChannelUnit]:
        return [cast(SlimmableChannelUnit, unit) for unit in self.mutable_units]

    # --- choices -----------------------------------------------------------------------------------------------------

    def set_choices(self, choices: Mapping[str, Choice]) -> None:
        """Set widths; units that are not named keep theirs.

        Where all units together then have the widths of a subnet, it is that subnet (of equal ones the last), with its
        statistics, even if a unit has another candidate of the same width.

        Args:
            choices: Unit name → one of its candidates, or a list of channels to keep.

        Raises:
            ChoiceError: If a name is unknown or a choice is no candidate; no width is changed then.
        """
        with batch_update():
            super().set_choices(choices)
            units = self._slimmable_units
            if any(unit.current_candidate is None for unit in units):
                return  # channels were kept by hand
            active = [unit.mutable_channel.activated_channels for unit in units]
            widths = [unit.candidate_numbers for unit in units]
            for subnet in reversed(range(self.num_subnets)):
                if all(numbers[subnet] == number for numbers, number in zip(widths, active, strict=True)):
                    for unit in units:
                        unit.stand_at(subnet)
                    break

    def sample_choices(self, kind: str = "random", rng: random.Random | None = None) -> dict[str, int | float]:
        """The choices of one subnet.

        Args:
            kind: ``"random"``, ``"max"`` or ``"min"``.
            rng: Source of randomness; Python's global one by default.

        Raises:
            ConfigError: If ``kind`` is another one.
        """
        check_kind(kind)
        if not self.num_subnets:
            return {}
        last = self.num_subnets - 1
        subnet = {"max": last, "min": 0}.get(kind)
        return self.subnets[(rng or random).randint(0, last) if subnet is None else subnet]

    # --- preparing ---------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        units = self._slimmable_units
        counts = Counter(len(unit.candidate_numbers) for unit in units)
        if len(counts) > 1:
            most, _ = max(counts.items(), key=lambda item: item[1])
            others = [unit for unit in units if len(unit.candidate_numbers) != most]
            have = f"{counts[most]} {'unit has' if counts[most] == 1 else 'units have'}"
            named = ", ".join(f"{unit.name!r} ({len(unit.candidate_numbers)})" for unit in others[:_LISTED])
            more = f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
            raise ConfigError(
                f"all units of a {type(self).__name__} must have equally many candidate_choices, one for each subnet; "
                f"{have} {most}, but not {named}{more}. A width may be listed several times"
            )
        if units:
            self.set_subnet(self.num_subnets - 1)
