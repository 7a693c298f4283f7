"""A unit: channels that can only change together, and how many of them are active."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from lightning_channels.dynamic_ops import use_container_class
from lightning_channels.errors import ConfigError, check_keys
from lightning_channels.mutables import MutableChannelContainer
from lightning_channels.registry import UNITS, check_arguments
from lightning_channels.units.attach import attach, check_fits, check_followers, detach
from lightning_channels.units.choosing import ChannelChoice
from lightning_channels.units.layout import (
    channels_template,
    describe,
    fill_from_config,
    fill_from_group,
    num_channels_of,
)
from lightning_channels.units.predefined import PredefinedGroup, fill_from_predefined, predefined_groups

if TYPE_CHECKING:
    from lightning_channels.tracing import Group, ModuleGraph

__all__ = ["MutableChannelUnit"]

_CONFIG_KEYS = ("init_args", "channels", "choice", "kept", "order")


@UNITS.register()
class MutableChannelUnit(ChannelChoice):
    """All channels that depend on each other, with one choice for them.

    This base keeps any set of channels; its choice is their number, and a number that is set keeps the first ones.
    Subclasses say which choices there are.

    Args:
        num_channels: Number of channels.

    Attributes:
        output_related: Channels on output sides.
        input_related: Channels on input sides; a norm's are in both lists.
        attributes: Integer attributes of modules that count these channels, and follow them.
        mutable_channel: Which channels are active.
        groups: Number of equal tiles that must keep the same channels (a group convolution's or a group norm's groups).
        exact: Whether dropping channels leaves the result for the others alone; not so where a norm, mean or softmax
            runs over the channels themselves.
        inexact: Why it isn't exact, where that is known.
        reduced: Whether the channels end where no weight reads them: in a mean over them, or a product of activations.
        reason: Why the unit can't change, where something keeps it from that.
        model: The model that it is prepared for, if it is.
    """

    def __repr__(self) -> str:
        return describe(self)

    # --- making units ------------------------------------------------------------------------------------------------

    @classmethod
    def init_from_graph(cls, graph: ModuleGraph, unit_args: Mapping[str, Any] | None = None) -> list[Self]:
        """One unit for each group of channels that a tracer found.

        Args:
            graph: What the tracer found.
            unit_args: Init arguments besides ``num_channels``.
        """
        return [cls.init_from_group(group, unit_args or {}) for group in graph.groups]

    @classmethod
    def init_from_predefined_model(cls, model: nn.Module, unit_args: Mapping[str, Any] | None = None) -> list[Self]:
        """One unit for each mutable that is registered in a model written with dynamic ops; nothing is run.

        What belongs together is what the model says, and is taken at its word.

        Args:
            model: A model with dynamic ops, to whose sides mutables are registered.
            unit_args: Init arguments besides ``num_channels``.

        Raises:
            PrepareError: If the model has no dynamic op, or none with a mutable.
            ConfigError: If ``unit_args`` holds an argument that the type doesn't take.
        """
        return [cls.init_from_group(group, unit_args or {}) for group in predefined_groups(model)]

    @classmethod
    def init_from_group(cls, group: Group | PredefinedGroup, unit_args: Mapping[str, Any]) -> Self:
        """A unit for one group of channels, which a tracer found or a mutable of a predefined model steers.

        Raises:
            ConfigError: If ``unit_args`` holds an argument that the type doesn't take, or another ``num_channels``.
        """
        arguments = {"num_channels": group.num_channels, **unit_args}
        check_arguments(cls, arguments, f"unit type {cls.__name__}")
        try:
            unit = cls(**{**arguments, "num_channels": group.num_channels})
        except ConfigError as error:  # raised before the unit has channels, and so a name
            raise _said_of(error, _plain(group)) from error
        if isinstance(group, PredefinedGroup):
            fill_from_predefined(unit, group)
        else:
            fill_from_group(unit, group)
        if arguments["num_channels"] != group.num_channels:
            raise ConfigError(
                f"unit {unit.name!r} has {group.num_channels} channels, its config says {arguments['num_channels']!r}"
            )
        unit._settle()
        return unit

    @classmethod
    def init_from_cfg(cls, model: nn.Module, config: Mapping[str, Any]) -> Self:
        """Make a unit from its template, without a tracer.

        Args:
            model: Its modules are checked against the channels.
            config: ``init_args``, ``channels`` with ``input_related`` and ``output_related``, and ``choice``, ``kept``
                and ``order``, which take effect. ``num_channels`` of the init args can be left out where a channel has
                ``end``.

        Raises:
            ConfigError: If a key is unknown or a value is not allowed.
            StructureError: If the model has no such module, or not so many channels there, or if an attribute counts no
                channels.
        """
        check_keys(config, _CONFIG_KEYS, "a unit's config")
        given = config.get("init_args") or {}
        check_arguments(cls, given, f"unit type {cls.__name__}")
        arguments = dict(given)
        channels = config.get("channels") or {}
        if "num_channels" not in arguments:
            arguments["num_channels"] = num_channels_of(channels)
        plain = MutableChannelUnit(arguments["num_channels"])
        fill_from_config(plain, channels)
        try:
            unit = cls(**cls._arguments_for(plain, arguments))
        except ConfigError as error:
            raise _said_of(error, plain) from error
        fill_from_config(unit, channels)
        check_fits(model, unit.name, [*unit.channels, *unit.attributes])
        check_followers(model, unit.name, unit.attributes)
        unit._settle()
        chosen = unit.read_state(config)
        if chosen is not None:
            unit.choose(chosen)
        return unit

    @classmethod
    def _arguments_for(cls, plain: MutableChannelUnit, arguments: dict[str, Any]) -> dict[str, Any]:
        """The init arguments of a unit with the channels of ``plain``."""
        return arguments

    def _settle(self) -> None:
        """Called once channels and constraints are known."""

    # --- the model ---------------------------------------------------------------------------------------------------

    def prepare_for_pruning(self, model: nn.Module) -> None:
        """Turn the modules of this unit into dynamic ops and let its mutable channel steer them.

        Raises:
            StructureError: If the model lacks one of the modules; nothing is changed then.
        """
        check_fits(model, self.name, [*self.channels, *self.attributes])
        attach(model, [*self.channels, *self.attributes], self.mutable_channel)
        self.model = model

    @staticmethod
    def _register_channel_container(model: nn.Module, container_class: type[MutableChannelContainer]) -> None:
        """Give every dynamic op of ``model`` containers of this class; see :func:`use_container_class`."""
        use_container_class(model, container_class)

    def detach(self, model: nn.Module) -> None:
        """Take this unit's mutable channel off its modules."""
        detach(model, [*self.channels, *self.attributes], self.mutable_channel)
        self.model = None

    def leave(self, model: nn.Module) -> None:
        """Undo what this unit did to the modules of a predefined model, which keeps its dynamic ops and mutables."""
        self.model = None

    # --- templates ---------------------------------------------------------------------------------------------------

    def init_args(self) -> dict[str, Any]:
        """The arguments that make an equal unit, in the order of the documents."""
        return {"num_channels": self.num_channels}

    def config_template(self, with_init_args: bool = False, with_channels: bool = False) -> dict[str, Any]:
        """The unit as plain data.

        Args:
            with_init_args: Whether to add ``init_args``.
            with_channels: Whether to add ``channels``, with which :meth:`init_from_cfg` needs no tracer.

        Returns:
            ``{init_args?, channels?, choice, kept?, order?}``, the last two only where they are needed.
        """
        template: dict[str, Any] = {}
        if with_init_args:
            template["init_args"] = self.init_args()
        if with_channels:
            template["channels"] = channels_template(self)
        template["choice"] = self.current_choice
        for key, value in (("kept", self.kept), ("order", self.order)):
            if value is not None:
                template[key] = value
        return template


def _plain(group: Group | PredefinedGroup) -> MutableChannelUnit:
    """A unit with a group's channels that leaves a predefined model's mutable alone."""
    plain = MutableChannelUnit(group.num_channels)
    if isinstance(group, PredefinedGroup):
        plain.output_related, plain.input_related = group.output_related, group.input_related
    else:
        fill_from_group(plain, group)
    return plain


def _said_of(error: ConfigError, plain: MutableChannelUnit) -> ConfigError:
    """The error of a constructor, which knows no name for its unit, with the name."""
    text, named, unnamed = str(error), f"unit {plain.name!r}", f"unit {MutableChannelUnit(plain.num_channels).name!r}"
    return type(error)(text.replace(unnamed, named) if unnamed in text else f"{named}: {text}")
