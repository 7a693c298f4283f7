"""Finding a model's units and putting them to work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from lightning_channels._modules import modules_of, named_modules_of, named_tensors_of
from lightning_channels.dynamic_ops import is_dynamic, restore
from lightning_channels.errors import ConfigError, PrepareError, StructureError, check_keys
from lightning_channels.mutators.proof import Proof, ProofRecord
from lightning_channels.mutators.report import OpReport, unruled_ops
from lightning_channels.mutators.unit_config import UnitConfig
from lightning_channels.tracing import ForwardTracer
from lightning_channels.tracing.running import ExampleInputs
from lightning_channels.units import MutableChannelUnit

__all__ = ["Found", "attach_units", "find_units", "refuse_unfit", "release"]


@dataclass(slots=True)
class Found:
    """A model's units, and what is known besides.

    Attributes:
        units: In the order of their modules.
        macs: Multiply-accumulates of each module at full width.
        prove: Runs the prepared model narrow and takes the units that come out wrong off it (its second argument:
            whether each unit is to be tried alone as well); ``None`` without a trace.
        unruled: The operators without a rule.
    """

    units: list[MutableChannelUnit]
    macs: dict[str, int]
    prove: Callable[[nn.Module, bool], ProofRecord] | None = None
    unruled: tuple[OpReport, ...] = ()


def refuse_unfit(model: nn.Module) -> None:
    """Refuse what can't be prepared.

    Raises:
        PrepareError: If the model is prepared already, sharded, or not initialised yet.
    """
    if not isinstance(model, nn.Module):
        raise PrepareError(f"the model must be an nn.Module, got {type(model).__name__}")
    for name, module in named_modules_of(model):
        if is_dynamic(module):
            raise PrepareError(
                f"the model is prepared already ({name or 'it'} is a {type(module).__name__}); use its mutator "
                "(find_mutator(model)), or restore() the plain classes first"
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
    tracer: ForwardTracer | None,
    model: nn.Module,
    example_inputs: ExampleInputs | None,
) -> Found:
    """Find the units by the tracer, or read them from the template if there is none."""
    if tracer is None:
        return _from_config(config, parse_cfg, model)
    graph = tracer.trace(model, example_inputs)
    units = []
    for group in graph.groups:
        unit = config.unit_class.init_from_group(group, config.default_args)
        if unit.name in config.units:
            unit = config.unit_class.init_from_group(group, config.args_of(unit.name))
        units.append(unit)
    config.check_names(unit.name for unit in units)
    macs: dict[str, int] = {}
    for cost in graph.walk.costs:
        macs[cost.module] = macs.get(cost.module, 0) + cost.macs
    inputs = tracer.inputs_for(model, example_inputs)

    def prove(prepared: nn.Module, full: bool) -> ProofRecord:
        return Proof(graph, units, inputs, full).run(prepared)

    return Found(units, macs, prove, unruled_ops(graph, units))


def _from_config(config: UnitConfig, parse_cfg: dict[str, Any], model: nn.Module) -> Found:
    check_keys(parse_cfg, ("type", "macs"), "parse_cfg of type 'Config'")
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
    return Found(units, dict(macs))


def attach_units(model: nn.Module, units: Iterable[MutableChannelUnit], attached: list[MutableChannelUnit]) -> None:
    """Prepare the mutable units' modules; ``attached`` grows as it goes, so that a caller can undo a half of it."""
    for unit in units:
        if unit.is_mutable:
            attached.append(unit)
            unit.prepare_for_pruning(model)


def release(model: nn.Module, units: Iterable[MutableChannelUnit]) -> None:
    """Put the plain classes back."""
    for module in modules_of(model):
        if is_dynamic(module):
            restore(module)
    for unit in units:
        unit.mutable_channel.keep(unit.num_channels)
