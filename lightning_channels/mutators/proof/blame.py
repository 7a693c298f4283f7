"""Which units a failure concerns: those whose channels run through the operators where it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_channels.mutators.proof.compare import Tolerance
from lightning_channels.mutators.proof.narrow import Crash, Observed
from lightning_channels.tracing.graph import ModuleGraph
from lightning_channels.tracing.program import Op, Ref
from lightning_channels.tracing.rewrites import REWRITES
from lightning_channels.tracing.walk import Walk

__all__ = ["Comparison", "Failure", "Sections", "first_departure"]


_RANKING = {
    "torchvision::nms", "aten::topk", "aten::sort", "aten::argsort", "aten::argmax", "aten::argmin", "aten::nonzero",
    "aten::masked_select", "aten::_unique2",
}  # fmt: skip
"""Operators whose results depend on an order of values, or on how many there are of a kind."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why units can't be narrow together.

    Attributes:
        reason: In words, with operator, module and line.
        places: Which units' channels run through the place, as numbers of the graph's groups.
        kind: Equal for failures of the same code.
    """

    reason: str
    places: frozenset[int] = frozenset()
    kind: tuple[str, str] = ("", "")


def first_departure(calls: Sequence[Observed], expected: Sequence[Observed], tolerance: Tolerance) -> int | None:
    """Number of the first module call that returned something else than expected, or was another one."""
    before: tuple[Tensor, Tensor] | None = None
    for number, (call, want) in enumerate(zip(calls, expected, strict=False)):
        if call.module != want.module or len(call.values) != len(want.values):
            return number
        for value, other in zip(call.values, want.values, strict=True):
            if value is None or other is None or (before is not None and value is before[0] and other is before[1]):
                continue  # a container returns what its last module did
            before = value, other
            if tolerance.departs(value, other):
                return number
    return None if len(calls) == len(expected) else min(len(calls), len(expected))


class Comparison:
    """Compares what the modules of a model returned with what a replay computes, value by value as it comes.

    Args:
        calls: The module calls of the model, in the order in which they ended.
        sections: Of the program that is replayed.
        tolerance: How exact the values are.

    Attributes:
        ended: Number of the first call that returned something else, or was another one; ``None`` if none so far.
    """

    def __init__(self, calls: Sequence[Observed], sections: Sections, tolerance: Tolerance) -> None:
        expected = sections.program.calls
        self._tolerance = tolerance
        self._values: dict[int, list[tuple[int, Tensor]]] = {}
        self.ended: int | None = None if len(calls) == len(expected) else min(len(calls), len(expected))
        for number, (call, want) in enumerate(zip(calls, expected, strict=False)):
            if call.module != want.module or len(call.values) != len(want.outputs):
                self.ended = number
                break
            for value, ref in zip(call.values, want.outputs, strict=True):
                known = self._values.setdefault(ref, [])
                if value is not None and not any(value is own for _, own in known):  # a container's is its last one's
                    known.append((number, value))

    def see(self, ref: int, value: Tensor) -> None:
        """Compare a value of the replay."""
        for number, own in self._values.get(ref, ()):
            if (self.ended is None or number < self.ended) and self._tolerance.departs(own, value):
                self.ended = number


class Sections:
    """A program as the stretches of operators between the ends of its module calls.

    Args:
        graph: The traced model.
        walk: Of one of its programs.

    Attributes:
        walk: Labels of every tensor.
        program: Its program.
        watch: References of what the module calls returned, as far as nothing is written into it.
    """

    def __init__(self, graph: ModuleGraph, walk: Walk) -> None:
        self.walk = walk
        self.program = walk.program
        self._graph = graph
        made = {out.id for op in self.program.ops for out in op.outputs if out is not None}
        made -= walk.written  # what is written to later has no one value
        self.watch = {ref for call in self.program.calls for ref in call.outputs if ref in made}

    @cached_property
    def ranked(self) -> frozenset[int]:
        """References of what values that were put in an order decide about."""
        found: set[int] = set()
        derived = set(self.program.leaves)  # an order of the inputs alone is always the same
        for op in self.program.ops:
            inputs = {ref.id for ref in op.inputs()}
            if inputs.isdisjoint(derived):
                continue
            outputs = [out.id for out in op.outputs if out is not None]
            derived.update(outputs)
            if op.func._schema.name in _RANKING or not inputs.isdisjoint(found):
                found.update(outputs)
        return frozenset(found)

    def unchecked(self, op: Op, active: frozenset[int], error: str) -> Failure | None:
        """The failure of units that can't be checked, since the replay ends at an operator; ``None`` if none is there.

        Args:
            op: It reads what was chosen by values, of which there may be more or fewer when the model is narrow.
            active: Numbers of the groups that are narrow.
            error: Why the replay ends.
        """
        start = next(number for number, own in enumerate(self.program.ops) if own is op)
        places = self._owners(self.program.ops[start:])
        if places.isdisjoint(active):
            return None
        return Failure(f"{error}, so what comes after it cannot be checked", places, ("", str(id(op))))

    def crash(self, crash: Crash, ended: int, what: str) -> Failure:
        """The failure of a model that raised an exception after so many of its module calls had ended."""
        ops = [op for op in self._between(ended) if op.module == crash.module] or self._between(ended)
        at = [op for op in ops if op.line == crash.line]
        op = next((op for op in at if op.name in REWRITES), at[0] if at else None)
        place = crash.module or "the model"
        where = f" ({op.name} in {place}, {op.line})" if op and crash.line else f" ({crash.line})" if crash.line else ""
        reason = f"{place} fails when it is {what}: {crash.error}{where}"
        return Failure(reason, self._owners(ops), (crash.line, crash.error.partition(":")[0]))

    def departure(self, ended: int | None, active: frozenset[int], how: str, what: str) -> Failure:
        """The failure of a model that computed something else.

        Args:
            ended: How many of its module calls had ended rightly; ``None`` for all.
            active: Numbers of the groups that are narrow.
            how: What it does wrong, in words.
            what: The form that it is in, in words.
        """
        calls = self.program.calls
        ops = self._between(len(calls) if ended is None else ended)
        narrow = [op for op in ops if self._owners([op]) & active]
        # an operator with a number that counts channels is the one to suspect
        op = next((op for op in narrow if op.name in REWRITES), narrow[0] if narrow else None)
        module = (
            op.module if op is not None else calls[ended].module if ended is not None and ended < len(calls) else ""
        )
        place = module or "the model"
        where = "" if op is None else f" ({op.name} in {place}{', ' if op.line else ''}{op.line})"
        kind = ("", module) if op is None else (op.line, op.name)
        return Failure(f"{place} {how} when it is {what}{where}", self._owners(ops), kind)

    def _between(self, ended: int) -> list[Op]:
        """The operators that ran after so many calls had ended, up to the end of the next one."""
        ends = [call.end for call in self.program.calls]
        start = ends[ended - 1] if 0 < ended <= len(ends) else 0
        following = [end for end in ends[ended:] if end > start]
        return self.program.ops[start : following[0] if following else None]

    def _owners(self, ops: Sequence[Op]) -> frozenset[int]:
        """Numbers of the groups whose channels the operators handle."""
        refs = [ref for op in ops for ref in [*op.inputs(), *(out for out in op.outputs if out is not None)]]
        return frozenset().union(*(self.owners_of(ref) for ref in dict.fromkeys(refs)))

    def owners_of(self, ref: Ref) -> frozenset[int]:
        """Numbers of the groups whose channels a tensor has."""
        maps = self.walk.maps.get(ref.id, ())
        classes = [found for labels in maps for found in self._graph.classes_of(labels.reshape(-1))]
        return frozenset(number for found in classes for number in self._owner[found].tolist()) - {-1}

    @cached_property
    def _owner(self) -> Tensor:
        """Class of labels → number of its group, or -1."""
        owner = torch.full((sum(map(len, self._graph.roots)),), -1)
        for number, group in enumerate(self._graph.groups):
            owner[group.classes] = number
        return owner
