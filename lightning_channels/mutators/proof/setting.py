"""What all runs of a proof share: the model, its recorded programs, example inputs, numbers and tolerances."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels._modules import named_tensors_of
from lightning_channels.mutables import batch_update
from lightning_channels.mutators.proof.blame import Sections
from lightning_channels.mutators.proof.compare import Tolerance
from lightning_channels.mutators.proof.narrow import Outcome, run_model
from lightning_channels.mutators.proof.reference import Reference
from lightning_channels.mutators.proof.values import Values
from lightning_channels.tracing import ModuleGraph
from lightning_channels.tracing.preserving import Attributes, preserving, switch_mode
from lightning_channels.tracing.program import Program
from lightning_channels.tracing.recorder import tensors_in
from lightning_channels.tracing.replay import Replay
from lightning_channels.tracing.running import ExampleInputs, check_inputs, doubled, training
from lightning_channels.tracing.scaling import has_scales
from lightning_channels.units import MutableChannelUnit

__all__ = ["Setting", "widen"]


class Setting:
    """One model under proof.

    Args:
        graph: The traced model.
        units: One for each of the graph's groups, in their order.
        inputs: Example inputs.
        model: The prepared model, in eval mode.

    Attributes:
        numbers: id of a unit → number of its group.
        values: The numbers that the model is run with.
        tolerance: How exact results are.
        reference: Where weights read channels.
        eval: Eval mode's program.
        train: Train mode's program, where the model runs on its example in train mode.
        train_alike: Whether train mode runs the operators of eval mode and no others, as models without batch norm do.
        ranks: Whether the model puts values in an order and chooses some, as detectors do.
        outputs_tell: Whether what the model returns depends on its channels as they are; not so where it ranks.
        rescale: Whether replays let factors follow the numbers of channels that they seem to be computed from.
        runs: Number of forward passes so far.
    """

    def __init__(
        self, graph: ModuleGraph, units: list[MutableChannelUnit], inputs: ExampleInputs, model: nn.Module
    ) -> None:
        self.graph = graph
        self.model = model
        self.numbers = {id(unit): number for number, unit in enumerate(units)}
        self.values = Values(model)
        self.tolerance = Tolerance(self.values[name] for name in graph.program.leaves.values())
        self.reference = Reference(graph)
        self.eval = Sections(graph, graph.walk)
        self.train = None if graph.walk.training is None else Sections(graph, graph.walk.training)
        self.train_alike = graph.training is not None and _alike(graph.program, graph.training)
        self.ranks = bool(self.eval.ranked)
        shapes = (graph.program.shapes[ref] for ref in graph.program.outputs)
        self.outputs_tell = not self.ranks and any(shape.numel() > 1 for shape in shapes)
        self.rescale = False
        self.runs = 0
        self._train_random = graph.training is not None and graph.training.random
        self._inputs = check_inputs(inputs)
        self._attributes: dict[bool, Attributes] = {}

    @cached_property
    def has_scales(self) -> bool:
        """Whether ``rescale`` makes a difference."""
        return any(has_scales(walk) for walk in self.graph.walks)

    def inputs(self, train: bool) -> ExampleInputs:
        """Example inputs that a run may write into."""
        return _differing(self._inputs, doubled(self._inputs)) if train else check_inputs(self._inputs)

    def run(self, model: nn.Module, train: bool = False, single: bool = False, watch: bool = True) -> Outcome:
        """Call the model, or an exported one.

        Args:
            model: The one or the other.
            train: Whether in train mode.
            single: Whether with the example as it is, where train mode repeats it otherwise.
            watch: Whether to note what each module returns.
        """
        self.runs += 1
        inputs = self.inputs(train and not single)
        switch_mode(model, False)
        if not train:
            return run_model(model, inputs, self.graph.program.random, watch, self._attributes_of(model, train))
        with preserving(model), training(model):
            outcome = run_model(model, inputs, self._train_random, watch, self._attributes_of(model, train))
            named = named_tensors_of(model)
            outcome.buffers = {
                name: tensor.detach().clone()
                for name, tensor in named
                if not isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
            }
        return outcome

    def _attributes_of(self, model: nn.Module, train: bool) -> Attributes | None:
        """What the prepared model's modules have in a mode, whatever its units are at; that is looked at once."""
        if model is not self.model:
            return None
        if train not in self._attributes:
            self._attributes[train] = Attributes(model)
        return self._attributes[train]

    def replay(
        self,
        units: list[MutableChannelUnit],
        kept: dict[int, Tensor],
        sections: Sections,
        twin: Replay | None = None,
    ) -> Replay:
        """The program without the channels that the units don't keep, ready to run; ``twin`` as for a replay."""
        self.runs += 1
        dropped = [] if twin is not None else self.dropped(units, kept)
        return Replay(self.graph, dropped, sections.program, twin, self.rescale)

    def is_comparable(self, unit: MutableChannelUnit) -> bool:
        """Whether zeros in the weights that read a unit's channels take these out of the full model."""
        return unit.exact and self.reference.reads(self.graph.groups[self.numbers[id(unit)]].classes)

    def dropped(self, units: list[MutableChannelUnit], kept: dict[int, Tensor]) -> list[Tensor]:
        """The classes of labels that the units don't keep."""
        gone = []
        for unit in units:
            classes = self.graph.groups[self.numbers[id(unit)]].classes
            mask = torch.ones(len(classes), dtype=torch.bool)
            mask[kept[id(unit)]] = False
            gone.append(classes[mask])
        return gone

    def tensors(self, train: bool) -> list[Tensor]:
        """The input tensors of a replay."""
        return list(tensors_in(self.inputs(train)))


def widen(units: list[MutableChannelUnit]) -> None:
    """Put units to their full width."""
    with batch_update():
        for unit in units:
            unit.mutable_channel.keep(unit.num_channels)


# the same product takes another way for another size of the batch
_PRODUCTS = {"bmm": ("mm",), "addmm": ("mm", "add"), "baddbmm": ("mm", "add")}
_LAYOUT = {"clone", "_unsafe_view", "contiguous", "alias", "expand_copy", "_to_copy"}


def _alike(program: Program, other: Program) -> bool:
    """Whether two programs compute the same, example by example."""
    if [call.module for call in program.calls] != [call.module for call in other.calls]:
        return False
    return not any("batch_norm" in op.name for op in other.ops) and _facts(program) == _facts(other)


def _facts(program: Program) -> Counter[tuple[Any, ...]]:
    """What operators there are in each module, but for those that depend on the size of the batch."""
    found: Counter[tuple[Any, ...]] = Counter()
    for op in program.ops:
        if not op.func.is_view and op.name not in _LAYOUT:
            arguments = [*op.args, *op.kwargs.values()]
            flags = tuple(arg for arg in arguments if isinstance(arg, (bool, float)))
            found.update((op.module, name, flags) for name in _PRODUCTS.get(op.name, (op.name,)))
    return found


def _differing(inputs: ExampleInputs, twice: ExampleInputs) -> ExampleInputs:
    """Let the second half of a doubled batch differ from the first: over equal values, batch norm gives a constant."""
    singles, doubles = list(tensors_in(inputs)), list(tensors_in(twice))
    if len(singles) == len(doubles):
        for single, double in zip(singles, doubles, strict=True):
            if double.is_floating_point() and double.shape != single.shape:
                double[1:].mul_(0.75)  # which leaves masks, boxes and probabilities what they are
    return twice
