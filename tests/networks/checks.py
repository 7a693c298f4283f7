"""What must hold for every network, whatever is known about it."""

from __future__ import annotations

import copy
import random
from typing import Any

import invariants
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lightning_channels import ChannelMutator, MutableChannelUnit, export_subnet

__all__ = ["Invariants", "Prepared"]

TOLERANCE = 1e-10


class Prepared:
    """A plain network, and its prepared copy.

    Args:
        plain: In double precision.
        inputs: Example inputs.
        reads: See :class:`networks.case.Case`.
        attention: What may go of an attention.
    """

    def __init__(
        self, plain: nn.Module, inputs: Any, reads: tuple[tuple[str, int], ...] = (), attention: str = "heads"
    ) -> None:
        self.plain, self.inputs, self.reads = plain, inputs, reads
        self.model = copy.deepcopy(plain)
        self.before = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        self.mutator = ChannelMutator(parse_cfg={"type": "ForwardTracer", "attention": attention})
        self.mutator.prepare_from_supernet(self.model, inputs)

    def widen(self) -> None:
        """Back to full width."""
        self.mutator.set_choices(self.mutator.sample_choices("max"))

    # --- invariants 1 and 2

    def check_untouched(self) -> None:
        invariants.check_state_untouched(self.plain, self.model, self.before)

    def check_full_width(self) -> None:
        invariants.check_full_width(self.plain, self.model, self.inputs)

    # --- invariants 3 and 4

    def check_narrow(self, widths: str) -> None:
        """The narrow network is its exported one, in both modes, gradients too.

        Args:
            widths: ``"min"``, ``"last"`` (one channel of each group, but not the first), ``"prefix"`` or ``"indices"``.
        """
        if widths == "min":
            self.mutator.set_choices(self.mutator.sample_choices("min"))
        elif widths == "last":
            for unit in self.mutator.mutable_units:
                inside = unit.num_channels // unit.groups
                unit.keep([group * inside + inside - 1 for group in range(unit.groups)])
        else:
            narrow(self.mutator.mutable_units, seed=1, prefix=widths == "prefix")
        exported = export(self.model, self.plain, self.inputs)
        check_small(exported, self.mutator)
        if self.mutator.mutable_units:
            invariants.check_gradients(self.model, exported, self.inputs, TOLERANCE)
        check_train_mode(self.model, exported, self.inputs)
        self.widen()

    def check_masked(self, prefix: bool, must_change: bool = True) -> None:
        """Narrow, the exact units give what the full network gives when nothing reads the dropped channels."""
        exact = [unit for unit in self.mutator.mutable_units if unit.exact]
        if not exact:
            return
        narrow(exact, seed=2, prefix=prefix)
        reference = masked(self.plain, self.mutator, self.reads)
        with torch.no_grad():
            full, small, zeroed = (invariants.run(m, self.inputs) for m in (self.plain, self.model, reference))
        for own, expected in zip(small, zeroed, strict=True):
            assert invariants.relative(own, expected) <= TOLERANCE
        changed = any(invariants.relative(a, b) > 1e-6 for a, b in zip(small, full, strict=True))
        assert changed or not must_change, "dropping channels changed nothing, so nothing was tested"
        self.widen()


class Invariants:
    """What must hold for a network, as tests; a subclass stands beside a fixture ``prepared``."""

    def test_state_is_untouched(self, prepared: Prepared) -> None:
        prepared.check_untouched()

    def test_full_width_is_the_original(self, prepared: Prepared) -> None:
        prepared.check_full_width()

    @pytest.mark.parametrize("widths", ["min", "last", "prefix", "indices"])
    def test_narrow_is_exported(self, prepared: Prepared, widths: str) -> None:
        prepared.check_narrow(widths)

    @pytest.mark.parametrize("prefix", [True, False], ids=["prefix", "indices"])
    def test_narrow_is_masked(self, prepared: Prepared, prefix: bool) -> None:
        prepared.check_masked(prefix)


def narrow(units: list[MutableChannelUnit], seed: int, prefix: bool) -> None:
    """Drop some channels of each unit; keep several where there are three, since a single one can't be out of order."""
    rng = random.Random(seed)
    for unit in units:
        inside = unit.num_channels // unit.groups
        count = rng.randint(min(2, inside - 1), inside - 1)
        kept = range(count) if prefix else sorted(rng.sample(range(inside), count))
        unit.keep([group * inside + channel for group in range(unit.groups) for channel in kept])


def export(model: nn.Module, plain: nn.Module, inputs: Any) -> nn.Module:
    """The static network, which gives the same; pickled where the plain one can be pickled."""
    if not any(parametrize.is_parametrized(module) for module in plain.modules()):
        return invariants.check_exported(model, inputs, TOLERANCE)
    exported = export_subnet(model)
    with torch.no_grad():
        for a, b in zip(invariants.run(model, inputs), invariants.run(exported, inputs), strict=True):
            assert invariants.relative(a, b) <= TOLERANCE
    return exported


def masked(plain: nn.Module, mutator: ChannelMutator, reads: tuple[tuple[str, int], ...]) -> nn.Module:
    """The full network in which everything that reads a dropped channel has a weight of zero there.

    Nothing in it comes from the tracer's replay: consumers are found by the kind of module, and bare ones by hand.
    """
    model = invariants.masked(plain, mutator)
    tensors = dict(model.named_parameters())
    with torch.no_grad():
        for unit in mutator.mutable_units:
            mask = unit.mutable_channel.current_mask
            for channel in unit.output_related:
                name = f"{channel.name}.weight" if channel.tensor is None else channel.label.partition("[")[0]
                if (name, channel.dim) not in reads:
                    continue
                index = torch.arange(unit.num_channels).repeat_interleave(channel.expand_ratio)
                if channel.index is not None:
                    index = torch.tensor(channel.index)
                dropped = (~mask[index]).nonzero().flatten() + channel.start
                tensors[name].index_fill_(channel.dim, dropped, 0.0)
    return model


def check_small(exported: nn.Module, mutator: ChannelMutator) -> None:
    """The exported network really is smaller where a unit is."""
    full, small = (sum(p.numel() for p in model.parameters()) for model in (mutator.model, exported))
    narrow = any(unit.mutable_channel.activated_channels < unit.num_channels for unit in mutator.mutable_units)
    assert (small < full) == narrow


def check_train_mode(model: nn.Module, exported: nn.Module, inputs: Any) -> None:
    """In train mode the narrow and the exported network agree, whatever they draw, and so do their statistics."""
    results = []
    for own in (copy.deepcopy(model), copy.deepcopy(exported)):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs = invariants.run(own.train(), inputs)
            results.append((outputs, invariants.run(own.eval(), inputs)))
    (first, second), (twin_first, twin_second) = results
    for a, b in zip([*first, *second], [*twin_first, *twin_second], strict=True):
        assert invariants.relative(a, b) <= TOLERANCE
