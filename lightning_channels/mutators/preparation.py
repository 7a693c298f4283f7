"""Finding a model's units and putting them to work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from lightning_channels._modules import modules_of, named_modules_of, named_tensors_of
from lightning_channels.dynamic_ops import is_dynamic, restore
from lightning_channels.errors import ConfigError, PrepareError, StructureError, check_keys, did_you_mean
from lightning_channels.mutables import BaseMutableChannel
from lightning_channels.mutators.agreement import agreeing
from lightning_channels.mutators.attention_report import AttentionUnits, attention_units
from lightning_channels.mutators.costs import Costs
from lightning_channels.mutators.head_size import HeadSizes
from lightning_channels.mutators.proof import Proof, ProofRecord
from lightning_channels.mutators.report import OpReport, unruled_ops
from lightning_channels.mutators.unit_config import UnitConfig
from lightning_channels.registry import TRACERS, is_typed
from lightning_channels.tracing import Tracer
from lightning_channels.tracing.running import ExampleInputs
from lightning_channels.units import MutableChannelUnit
from lightning_channels.units.predefined import predefined_groups

__all__ = [
    "MUTATOR",
    "Found",
    "Snapshot",
    "attach_units",
    "find_units",
    "make_tracer",
    "refuse_unfit",
    "release",
]

MUTATOR = "_channel_mutator"
"""Where a prepared model holds its mutator."""

_WITHOUT_TRACER = {"Config": ("type", "macs", "costs"), "Predefined": ("type",)}
"""The types of ``parse_cfg`` that name no tracer, with their keys."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A mutable of a predefined model as it was before the model was prepared."""

    mutable: BaseMutableChannel
    state: Any
    owner: Any
    name: str

    @classmethod
    def of(cls, mutable: BaseMutableChannel) -> Snapshot:
        """Take one."""
        return cls(mutable, mutable.snapshot(), mutable.owner, mutable.name)

    def put_back(self) -> None:
        """Leave the mutable as it was."""
        self.mutable.put_back(self.state)
        self.mutable.owner, self.mutable.name = self.owner, self.name


@dataclass(slots=True)
class Found:
    """A model's units, and what is known besides.

    Attributes:
        units: In the order of their modules.
        costs: Tells what choices cost, once it is known which of the units can change.
        prove: Runs the prepared model narrow and takes the units that come out wrong off it (its second argument:
            whether each unit is to be tried alone as well); ``None`` without a trace.
        unruled: The operators without a rule.
        before: What the mutables of a predefined model were at.
        attentions: What decides about the heads of the model's attentions.
        known_macs: Multiply-accumulates of each module at full width, in a template that says no more of costs.
    """

    units: list[MutableChannelUnit]
    costs: Callable[[], Costs]
    prove: Callable[[nn.Module, bool], ProofRecord] | None = None
    unruled: tuple[OpReport, ...] = ()
    before: list[Snapshot] = field(default_factory=list)
    attentions: tuple[AttentionUnits, ...] = ()
    known_macs: dict[str, int] = field(default_factory=dict)


def make_tracer(parse_cfg: Mapping[str, Any]) -> Tracer | None:
    """The tracer that ``parse_cfg`` names; None where units are found without running the model.

    Raises:
        ConfigError: If the type or an argument is unknown; the message names the nearest match.
    """
    known = [*TRACERS.names(), *_WITHOUT_TRACER]
    if not is_typed(parse_cfg):
        raise ConfigError(f"parse_cfg must be a dict with a 'type', got {parse_cfg!r}. Known: {', '.join(known)}")
    kind = parse_cfg["type"]
    if isinstance(kind, str) and kind in _WITHOUT_TRACER:
        check_keys(parse_cfg, _WITHOUT_TRACER[kind], f"parse_cfg of type {kind!r}")
        return None
    if kind not in TRACERS:
        hint = did_you_mean(kind, known) or "."
        raise ConfigError(f"unknown tracer type {kind!r}{hint} Known: {', '.join(known)}")
    tracer: Tracer = TRACERS.build(parse_cfg)
    return tracer


def _described(given: Any) -> str:
    return f"the class {given.__name__}; make a model of it" if isinstance(given, type) else type(given).__name__


def refuse_unfit(model: nn.Module, predefined: bool = False) -> None:
    """Refuse what can't be prepared.

    Args:
        model: What is to be prepared.
        predefined: Whether its dynamic ops are its own.

    Raises:
        PrepareError: If the model is prepared already, sharded, or not initialised yet.
    """
    if not isinstance(model, nn.Module):
        raise PrepareError(f"the model must be an nn.Module, got {_described(model)}")
    for name, module in named_modules_of(model):
        if MUTATOR in module.__dict__ or (is_dynamic(module) and not predefined):
            what = f"is a {type(module).__name__}" if is_dynamic(module) else "has a mutator"
            raise PrepareError(
                f"the model is prepared already ({name or 'it'} {what}); use its mutator "
                "(find_mutator(model)), or restore() the plain classes first. A model that was written with dynamic "
                "ops takes parse_cfg={'type': 'Predefined'}"
            )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor) or type(parameter).__name__ == "FlatParameter":
            raise PrepareError(f"{name} is sharded; prepare the model before it is sharded (fully_shard, FSDP)")
    for name, tensor in named_tensors_of(model):
        if is_lazy(tensor):
            raise PrepareError(f"{name} is lazy and has no shape yet; run the model once before it is prepared")


def find_units(
    config: UnitConfig,
    parse_cfg: dict[str, Any],
    tracer: Tracer | None,
    model: nn.Module,
    example_inputs: ExampleInputs | None,
) -> Found:
    """Find the units by the tracer, or read them from the template if there is none."""
    if parse_cfg["type"] == "Predefined":
        return _from_model(config, model)
    if tracer is None:
        return _from_config(config, parse_cfg, model)
    graph = tracer.trace(model, example_inputs)
    units = []
    sizes = HeadSizes(graph, config)
    for group in graph.groups:
        name, arguments = "", config.default_args  # which may not fit a unit that has arguments of its own
        if config.units:
            name = MutableChannelUnit.init_from_group(group, {}).name
            arguments = config.args_of(name)
        units.append(config.unit_class.init_from_group(group, {**arguments, **sizes.arguments(group, name)}))
    config.check_names(unit.name for unit in units)
    inputs = tracer.inputs_for(model, example_inputs)
    replayable = tracer.replayable(graph, inputs)
    proven = units if replayable is graph else agreeing(units, replayable)

    def prove(prepared: nn.Module, full: bool) -> ProofRecord:
        return Proof(replayable, proven, inputs, full).run(prepared)

    return Found(
        units,
        lambda: Costs.of(graph, units),
        prove,
        unruled_ops(graph, units),
        attentions=attention_units(graph, units),
    )


def _from_model(config: UnitConfig, model: nn.Module) -> Found:
    """The units of a model that was written with dynamic ops."""
    groups = predefined_groups(model)
    before = [Snapshot.of(group.mutable) for group in groups]
    units = []
    try:
        for group in groups:
            name = MutableChannelUnit.init_from_group(group, {}).name
            units.append(config.unit_class.init_from_group(group, config.args_of(name)))
        config.check_names(unit.name for unit in units)
    except BaseException:
        release(model, units, before)
        raise
    return Found(units, Costs, before=before)


def _from_config(config: UnitConfig, parse_cfg: dict[str, Any], model: nn.Module) -> Found:
    macs = parse_cfg.get("macs", {})
    if not isinstance(macs, dict) or not all(type(n) is int and n >= 0 for n in macs.values()):
        raise ConfigError("macs of parse_cfg must be a dict of module name → number of multiply-accumulates")
    if not config.units:
        raise ConfigError("parse_cfg of type 'Config' needs the units with their channels in channel_unit_cfg")
    units = []
    for name, settings in config.units.items():
        if not settings.get("channels"):
            raise ConfigError(f"unit {name!r} has no channels; make the template with with_channels=True")
        try:
            unit = config.unit_class.init_from_cfg(model, {**settings, "init_args": config.args_of(name)})
        except StructureError:
            channels = settings["channels"]
            if channels.get("output_related") and channels.get("input_related") and "reason" not in channels:
                raise
            continue  # a unit that can't change anyway, such as another head's output
        if unit.name != name:
            raise ConfigError(
                f"unit {name!r} has the channels of {unit.name!r}; a unit's name follows from its channels"
            )
        units.append(unit)
    costs = Costs.read(parse_cfg.get("costs"), units)
    return Found(units, lambda: costs, known_macs=dict(macs))


def attach_units(model: nn.Module, units: Iterable[MutableChannelUnit], attached: list[MutableChannelUnit]) -> None:
    """Prepare the mutable units' modules; ``attached`` grows as it goes, so that a caller can undo a half of it."""
    for unit in units:
        if unit.is_mutable:
            attached.append(unit)
            unit.prepare_for_pruning(model)


def release(model: nn.Module, units: Iterable[MutableChannelUnit], before: Iterable[Snapshot] = ()) -> None:
    """Put the plain classes back; a predefined model gets back what its mutables were at."""
    before = list(before)
    for snapshot in before:
        snapshot.put_back()
    if before:
        for unit in units:
            unit.leave(model)
        return
    for module in modules_of(model):
        if is_dynamic(module):
            restore(module)
    for unit in units:
        unit.mutable_channel.keep(unit.num_channels)
        unit.model = None
