"""All units of one model: find them, sample widths, set widths, write them down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from lightning_channels._packed import Packed
from lightning_channels._plain import to_plain
from lightning_channels.errors import ConfigError, PrepareError
from lightning_channels.eval_caches import keepers
from lightning_channels.mutators import structure
from lightning_channels.mutators.attention_report import AttentionUnits
from lightning_channels.mutators.costs import Costs
from lightning_channels.mutators.preparation import (
    MUTATOR,
    Snapshot,
    attach_units,
    find_units,
    make_tracer,
    refuse_unfit,
    release,
)
from lightning_channels.mutators.proof import ProofRecord
from lightning_channels.mutators.report import OpReport, Report, make_report
from lightning_channels.mutators.steering import Steering
from lightning_channels.mutators.unit_config import UnitConfig
from lightning_channels.registry import MUTATORS
from lightning_channels.tracing.preserving import paused_gc
from lightning_channels.tracing.running import ExampleInputs
from lightning_channels.units import MutableChannelUnit
from lightning_channels.units.choosing import Choice
from lightning_channels.units.constraints import check_constraints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_channels.mutators.picture import Scores

__all__ = ["ChannelMutator", "find_mutator"]


@MUTATORS.register(aliases=("channel",))
class ChannelMutator(Steering):
    """Finds the units of a model and steers their widths.

    Args:
        channel_unit_cfg: A unit class, its registered name, or a dict with ``type``, ``default_args`` (arguments of
            every unit) and ``units`` (name → ``init_args`` over these, ``choice``, ``kept`` and ``order``; or the path
            of a YAML or JSON file with them).
        parse_cfg: How units are found: a dict with the ``type`` of a tracer and its arguments; ``{"type": "Config"}``
            for a template that holds channels, and ``{"type": "Predefined"}`` for a model that was written with dynamic
            ops and mutables. Neither of these two runs the model.

    Attributes:
        proof_record: How the mutable units were verified.

    Raises:
        ConfigError: If a key, type or argument is unknown; the message names the nearest match.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> mutator = ChannelMutator("SequentialMutableChannelUnit")
        >>> mutator.prepare_from_supernet(model, torch.randn(1, 4))
        >>> mutator.set_choices({"0_(0, 8)_8": 3})
        >>> model[0](torch.randn(1, 4)).shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        channel_unit_cfg: str | type | Mapping[str, Any] = "SequentialMutableChannelUnit",
        parse_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.unit_config = UnitConfig(channel_unit_cfg)
        self.parse_cfg: dict[str, Any] = to_plain(
            {"type": "ForwardTracer"} if parse_cfg is None or parse_cfg == {} else parse_cfg, "parse_cfg"
        )
        self._tracer = make_tracer(self.parse_cfg)
        self._model: nn.Module | None = None
        self._before: list[Snapshot] = []
        self._fingerprint = Packed({})
        self._expected: dict[str, Any] = {}
        self._unruled: tuple[OpReport, ...] = ()
        self._attentions: tuple[AttentionUnits, ...] = ()
        self.proof_record = ProofRecord()
        self._costs = Packed({})
        self._macs = Packed({})

    @property
    def from_config(self) -> bool:
        """Whether units come from the template's channels, without a forward pass."""
        return bool(self.parse_cfg["type"] == "Config")

    @property
    def needs_inputs(self) -> bool:
        """Whether the model is run on example inputs to find its units."""
        return self._tracer is not None

    # --- preparing ---------------------------------------------------------------------------------------------------

    @paused_gc()
    def prepare_from_supernet(
        self, model: nn.Module, example_inputs: ExampleInputs | None = None, verify: bool | Literal["full"] = True
    ) -> None:
        """Find the model's units and turn their modules into dynamic ops, in place.

        Parameters, state dict, hooks, mode and outputs stay as they are; the choices of the template take effect.

        Args:
            model: Any module.
            example_inputs: A tensor, a tuple of positional or a dict of keyword arguments of ``forward``; random images
                of the tracer's ``input_shape`` by default.
            verify: Whether to run the model narrow and keep only the units for which that comes out right; ``"full"``
                tries each unit alone as well.

        Raises:
            PrepareError: If the mutator or the model is prepared already, or the model is sharded, lazy or on the meta
                device.
            ConfigError: If the template doesn't fit the model, or ``verify`` isn't one of these.
            TraceError: If the model fails on its example inputs.
        """
        if self._units is not None:
            raise PrepareError(
                "this mutator is prepared already; make a new one for another model, or call restore() first"
            )
        if verify not in (True, False, "full"):
            raise ConfigError(f"verify must be true or false, or 'full', got {verify!r}")
        refuse_unfit(model, self.parse_cfg["type"] == "Predefined")
        with torch.compiler.set_stance("force_eager"):  # what is compiled would be traced compiled
            self._prepare(model, example_inputs, verify)

    def _prepare(self, model: nn.Module, example_inputs: ExampleInputs | None, verify: bool | Literal["full"]) -> None:
        found = find_units(self.unit_config, self.parse_cfg, self._tracer, model, example_inputs)
        attached: list[MutableChannelUnit] = []
        try:
            structure.check_fingerprint(self._expected, model, found.units)
            fingerprint = structure.fingerprint(model, found.units)
            attach_units(model, found.units, attached)
            if self.from_config:
                check_constraints(model, attached)
            record = found.prove(model, verify == "full") if verify and found.prove is not None else ProofRecord()
            self._units = found.units
            self._settle()
            given = self.unit_config.units
            self._restore({unit.name: given[unit.name] for unit in found.units if unit.name in given})
            costs = found.costs()
        except BaseException:
            self._units = None
            release(model, attached, found.before)
            raise
        self._model, self._fingerprint = model, Packed(fingerprint)
        self._costs, self._macs = Packed(costs.to_plain()), Packed(costs.full_macs(found.units) or found.known_macs)
        self._keepers = keepers(model)
        for unit in found.units if self._keepers else ():
            unit._changed = self.widths_changed
        self.widths_changed()
        for unit in found.units:
            unit.pack()
        self._before = found.before
        self.proof_record, self._unruled, self._attentions = record, found.unruled, found.attentions
        model.__dict__[MUTATOR] = self

    def _restore(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Set what was written down of units: their choices, the channels that they keep, and in which order."""
        known = self._named(states)
        before = [(known[name], known[name].order) for name in states]
        try:
            chosen = {name: known[name].read_state(state) for name, state in states.items()}
            self.set_choices({name: choice for name, choice in chosen.items() if choice is not None})
        except BaseException:
            for unit, order in before:
                unit.order = order
            raise

    def _settle(self) -> None:
        """Called once the units are known and proven, before choices are set; whatever it raises undoes all."""

    def restore(self) -> nn.Module:
        """Put the plain classes back; the mutator can be used again. A predefined model keeps its dynamic ops.

        Returns:
            The model.

        Raises:
            PrepareError: If no model is prepared.
        """
        model, units = self.model, self.units
        release(model, units, self._before)
        model.__dict__.pop(MUTATOR, None)
        self._units = self._model = None
        self.widths_changed()
        self._keepers = []
        self._fingerprint, self._costs, self._macs, self._before = Packed({}), Packed({}), Packed({}), []
        return model

    @property
    def model(self) -> nn.Module:
        """The prepared model.

        Raises:
            PrepareError: If there is none.
        """
        if self._model is None:
            raise PrepareError("no model is prepared; call prepare_from_supernet(model) first")
        return self._model

    # --- what was found ----------------------------------------------------------------------------------------------

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of each module at full width for the example's batch, where they were recorded."""
        macs: dict[str, int] = self._macs.unpacked()
        return macs

    @property
    def costs(self) -> Costs:
        """What any choice costs, where that was recorded; :class:`lightning_channels.Resources` counts with it."""
        return Costs(**self._costs.unpacked())

    def report(self) -> Report:
        """Each unit with its share of the model, and why what can't change can't. Prints as a table."""
        return make_report(self, self._unruled, self.proof_record, tuple(a.report() for a in self._attentions))

    def plot(self, path: str | Path | None = None, scores: Scores | None = None) -> Figure:
        """A picture of what is kept of every mutable unit; needs matplotlib (``lightning-channels[plot]``).

        Args:
            path: A file to write it to; its ending says in which format (``.svg``, ``.png``, ``.pdf``).
            scores: What the channels are worth, to be shown by their colours: unit name → a number for each channel, or
                a criterion.

        Raises:
            ConfigError: If matplotlib isn't installed, the scores don't fit the units, or the ending is unknown.
            PrepareError: If no model is prepared.
        """
        from lightning_channels.mutators.picture import draw

        return draw(self.mutable_units, path, scores)

    # --- templates ---------------------------------------------------------------------------------------------------

    def config_template(
        self, only_mutable_units: bool = False, with_unit_init_args: bool = False, with_channels: bool = False
    ) -> dict[str, Any]:
        """The mutator as plain data; ``build(template)`` makes an equal one.

        Args:
            only_mutable_units: Leave out the units that can't change.
            with_unit_init_args: Add each unit's ``init_args``.
            with_channels: Add each unit's channels; with ``parse_cfg={"type": "Config"}`` no forward pass is needed
                then.

        Returns:
            ``{type, channel_unit_cfg: {type, default_args, units: {name: {init_args?, channels?, choice}}},
            parse_cfg}``.
        """
        units = self.mutable_units if only_mutable_units else self.units
        return {
            "type": MUTATORS.name_of(type(self)) or type(self).__name__,
            "channel_unit_cfg": {
                "type": self.unit_config.type_name,
                "default_args": to_plain(self.unit_config.default_args),
                "units": {unit.name: unit.config_template(with_unit_init_args, with_channels) for unit in units},
            },
            "parse_cfg": to_plain(self.parse_cfg),
        }

    def structure(self) -> dict[str, Any]:
        """All that is needed to build this mutator again on a fresh model without tracing it, as plain data.

        Returns:
            ``{version, template, choices, fingerprint, kept?, order?}``; see
            :mod:`lightning_channels.mutators.structure`.
        """
        template = self.config_template(with_unit_init_args=True, with_channels=True)
        return structure.dump(template, self._costs.unpacked(), self.current_choices, self._fingerprint.unpacked())

    @classmethod
    def from_structure(cls, data: Mapping[str, Any]) -> ChannelMutator:
        """A mutator that isn't prepared yet and won't trace its model.

        Raises:
            StructureError: If ``data`` isn't what :meth:`structure` returned, or has another version.
        """
        template, expected = structure.load(data)
        mutator = MUTATORS.build(template)
        mutator._expected = expected
        return cast(ChannelMutator, mutator)

    def load_structure(self, data: Mapping[str, Any]) -> None:
        """Set the choices and channels of a structure after checking that its mutable units are those of this model.

        Raises:
            StructureError: If a mutable unit differs; the message names the units. No width is changed then.
        """
        self._restore(structure.check(data, self.mutable_units))

    # --- the model ---------------------------------------------------------------------------------------------------

    def export(self, model: nn.Module | None = None, choices: Mapping[str, Choice] | None = None) -> nn.Module:
        """A plain static module of the current or given widths; see :func:`lightning_channels.export_subnet`."""
        from lightning_channels.export import export_subnet  # a convenience: export is a layer below this one

        return export_subnet(self.model if model is None else model, choices)


def find_mutator(model: nn.Module) -> ChannelMutator | None:
    """The mutator that prepared ``model``, if one did."""
    found = model.__dict__.get(MUTATOR)
    return found if isinstance(found, ChannelMutator) else None
