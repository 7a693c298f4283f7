"""Integers in a model's modules that count channels: ``x.view(b, n, self.num_heads, self.head_dim)``.

The labels tell which dim of a view, split or slice has channels, and the operator tells its size; an attribute of that
value, read by the code of the module that was running, probably *is* that size. This is a guess, and only ever decides
what is tried: the proof decides whether it was right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_channels.tracing.grouping import Block, Group, runs_of, stretches
from lightning_channels.tracing.labels import Labels, varying
from lightning_channels.tracing.program import Op, Ref
from lightning_channels.tracing.sides import Side
from lightning_channels.tracing.size_scope import Place, Scope, Use
from lightning_channels.tracing.solver import Solution
from lightning_channels.tracing.torch_attention import counted_in
from lightning_channels.tracing.walk import Walk

__all__ = ["Attributes"]

_RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy", "_reshape_copy", "expand", "expand_copy"}
_RESHAPE_CALLS = frozenset({"view", "reshape", "expand"})
_SPLIT_CALLS = frozenset({"split", "split_with_sizes"})
_NORMS = {"native_layer_norm", "_fused_rms_norm"}
_BATCHED = {"bmm", "baddbmm"}
_SPLITS = {"split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes"}
_NUMBERED = _RESHAPES | _SPLITS | _NORMS | {"slice", "convolution"}
"""Operators that are given numbers of channels."""


class Attributes:
    """What is known of the integer attributes of a model's modules.

    Args:
        model: The traced model.
        walks: Of its recorded programs.
    """

    def __init__(self, model: nn.Module, walks: list[Walk]) -> None:
        scope = Scope(model)
        uses = (use for walk in walks for use in _uses(walk, scope)) if scope.has_any else ()
        self._evidence = [(use.labels, scope.attributes(use)) for use in uses]
        for module, key, labels in counted_in(model, walks[0]):
            self._evidence.append((labels, [Place(module, key, 0)]))

    def _counted(self, solution: Solution) -> dict[tuple[str, str], list[Tensor]]:
        evidence: list[tuple[Tensor, list[Place]]] = []
        multiples: list[tuple[Tensor, list[Place]]] = []
        fixed: set[tuple[str, str]] = set()
        for labels, places in self._evidence:
            rows = solution.root[labels.long()]
            classes = _one_class_each(rows)
            if classes is None:
                if len(places) == 1 and bool((rows == rows[:1]).all()):  # whatever goes, there are as many of these
                    fixed.add((places[0].module, places[0].key))
            elif not bool(solution.pinned[classes].all()):
                (evidence if len(classes.unique()) == len(classes) else multiples).append((classes, places))
        # heads times the batch, which by chance are as many as a head has channels
        evidence += [(classes, [p for p in places if (p.module, p.key) not in fixed]) for classes, places in multiples]
        return _weigh(evidence)

    def join(self, labels: Labels, solution: Solution) -> bool:
        """Unite the sets of channels that one number counts; returns whether there were any."""
        joined = False
        for vectors in self._counted(solution).values():
            for other in vectors[1:]:
                if not torch.equal(other.sort().values, vectors[0].sort().values):
                    labels.unite(vectors[0], other)
                    joined = True
        return joined

    def give(self, solution: Solution, groups: list[Group]) -> None:
        """Give each group the attributes that seem to count its channels."""
        group_of = torch.full((len(solution.root),), -1, dtype=torch.long)
        rank = torch.zeros_like(group_of)
        for number, group in enumerate(groups):
            if group.pin is None:
                group_of[group.classes], rank[group.classes] = number, torch.arange(len(group.classes))
        for (module, key), vectors in self._counted(solution).items():
            if len(vectors) == 1:  # a number that counts two sets of channels can follow neither
                _follow(Side(module, key, False, False, vectors[0], []), vectors[0], group_of, rank, groups)


def _weigh(evidence: list[tuple[Tensor, list[Place]]]) -> dict[tuple[str, str], list[Tensor]]:
    """(module, key) of an attribute → the sets of channels that it counts, as classes.

    A number that may have come from several attributes says nothing if one of them is known to count these channels.
    """
    found: dict[tuple[str, str], tuple[int, list[Tensor]]] = {}
    for classes, places in sorted(evidence, key=lambda entry: len(entry[1]) > 1):
        known = (found.get((place.module, place.key), (0, []))[1] for place in places)
        if len(places) > 1 and any(torch.equal(classes, vector) for vectors in known for vector in vectors):
            continue
        for place in places:
            nearest, vectors = found.get((place.module, place.key), (place.level, []))
            if place.level < nearest:  # where its own module uses it counts, not where another might
                nearest, vectors = place.level, []
            if place.level == nearest and not any(torch.equal(classes, vector) for vector in vectors):
                vectors.append(classes)
            found[place.module, place.key] = nearest, vectors
    return {place: vectors for place, (_, vectors) in found.items()}


def _one_class_each(classes: Tensor) -> Tensor | None:
    """The class of each index; ``None`` where an index holds several, so that no single channel decides about it."""
    first = classes[:, 0]
    return first if bool((classes == first[:, None]).all()) else None


def _follow(side: Side, classes: Tensor, group_of: Tensor, rank: Tensor, groups: list[Group]) -> None:
    for start, end in stretches(group_of[classes]):
        number = int(group_of[classes[start]])
        if number < 0:
            continue
        group = groups[number]
        channels = rank[classes[start:end]]
        if group.tile > 1 and len(channels) % group.tile == 0:
            rows = channels.reshape(group.tile, -1)
            if bool((rows == rows[:1]).all()):  # all tiles are seen; else only one, and the first stands for each
                width = group.num_channels // group.tile
                channels = (rows + torch.arange(group.tile)[:, None] * width).flatten()
        group.attributes += runs_of(Block(side, start, end, channels), channels, group.num_channels)


# --- where numbers meet labels ---------------------------------------------------------------------------------------


def _uses(walk: Walk, scope: Scope) -> Iterator[Use]:
    seen: set[int] = set()
    borrowed = {(fact.target, fact.dim) for fact in walk.program.borrowed}
    for op in walk.program.ops:
        is_bare_norm = scope.is_bare_norm(op.module)
        if op.name not in _NUMBERED and not is_bare_norm and not any(map(walk.is_constant, op.inputs())):
            continue  # most operators
        module = scope.reader(op)
        if not scope.values(module):
            continue
        numbers = _numbers(walk, op, seen)
        if is_bare_norm:  # whatever it is made of, its size is that of what it gets
            numbers = itertools.chain(numbers, _read_whole(walk, op))
        for value, ref, dim, start, end in numbers:
            if (ref.id, dim) in borrowed and ref in op.outputs:
                continue  # another tensor's size
            if value in scope.values(module) and 0 <= start < end and end - start == value:
                labels = _rows(walk, ref, dim)
                if labels is not None:
                    yield Use(module, value, labels[start:end], op.line, *_place(walk, op, ref, dim))


def _read_whole(walk: Walk, op: Op) -> Iterator[_Number]:
    for ref in op.inputs():
        yield from _whole(walk, ref, _labelled_dims(walk, ref))


def _place(walk: Walk, op: Op, ref: Ref, dim: int) -> tuple[tuple[int, ...], int | None, frozenset[str]]:
    """The list of sizes that a number stood in, where in it, and what takes such a list."""
    if ref in op.outputs and op.name in ("split_with_sizes", "unsafe_split_with_sizes"):
        return tuple(op.args[1]), op.outputs.index(ref), _SPLIT_CALLS
    if ref in op.outputs and op.name in _RESHAPES:
        return tuple(walk.shape(ref)), dim, _RESHAPE_CALLS
    return (), None, frozenset()


def _rows(walk: Walk, ref: Ref, dim: int) -> Tensor | None:
    """Labels of each index of a dim; ``None`` without any, or where several sets of labels lie along it."""
    maps = [m for m in walk.maps.get(ref.id, ()) if m.shape[dim] > 1]
    return maps[0].movedim(dim, 0).reshape(maps[0].shape[dim], -1) if len(maps) == 1 else None


_Number = tuple[int, Ref, int, int, int]
"""(value, tensor, dim, start, end): the value may have stood for these indices."""


def _numbers(walk: Walk, op: Op, seen: set[int]) -> Iterator[_Number]:
    for ref in op.inputs():  # tensors made in forward, by sizes
        if walk.is_constant(ref) and ref.id not in seen:
            seen.add(ref.id)
            yield from _whole(walk, ref, _labelled_dims(walk, ref))
    if op.name in _RESHAPES or op.name in _SPLITS:
        for out in op.outputs:
            if out is not None:
                dims = [d for d in _labelled_dims(walk, out) if not _is_inferred(op, d)]
                # what a product of matrices is computed as counts all its leading dims in one: no code says how many
                joined = any(use.name in _BATCHED for use in walk.uses(out))
                yield from _whole(walk, out, [d for d in dims if d or not joined])
        if op.name in _SPLITS:  # x.split(self.channels // 2)
            yield from _whole(walk, op.args[0], [op.argument(2, "dim", 0) % len(walk.shape(op.args[0]))])
    elif op.name in _NORMS:
        out, count = op.outputs[0], len(op.args[1])
        assert out is not None
        rank = len(walk.shape(out))
        yield from _whole(walk, out, [d for d in _labelled_dims(walk, out) if d >= rank - count])
    elif op.name == "slice":
        yield from _slice(walk, op)
    elif op.name == "convolution" and op.args[8] > 1 and walk.shape(op.args[0])[1] == op.args[8]:
        yield from _whole(walk, op.args[0], [1])


def _is_inferred(op: Op, dim: int) -> bool:
    """Whether a view left a dim's size open."""
    return op.name in _RESHAPES and len(op.args[1]) > dim and op.args[1][dim] == -1


def _labelled_dims(walk: Walk, ref: Ref) -> list[int]:
    return sorted({dim for labels in walk.maps.get(ref.id, ()) for dim in varying(labels)})


def _whole(walk: Walk, ref: Ref, dims: list[int]) -> Iterator[_Number]:
    for dim in dims:
        size = walk.shape(ref)[dim]
        yield size, ref, dim, 0, size


def _slice(walk: Walk, op: Op) -> Iterator[_Number]:
    source: Ref = op.args[0]
    shape = walk.shape(source)
    dim = op.argument(1, "dim", 0) % len(shape)
    size = shape[dim]
    start, end, _ = slice(op.argument(2, "start"), op.argument(3, "end")).indices(size)
    for first, last in {(0, start), (0, end), (start, end), (start, size), (end, size)}:
        yield last - first, source, dim, first, last
