"""Sizes that know where they come from, and are integers like any other for everyone else."""

from __future__ import annotations

import copy
import functools
import gc
import json
import pickle
import pickletools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator
from lightning_channels.tracing import BackwardTracer, ForwardTracer
from lightning_channels.tracing.borrowing import Borrowed, SizeWatch
from lightning_channels.tracing.program import Program


class Named:
    """A watch that knows two tensors, ``x`` (2, 6, 4) and ``y`` (4, 6, 2), from whatever is made of them."""

    def __init__(self) -> None:
        self.x, self.y = torch.rand(2, 6, 4), torch.rand(4, 6, 2)
        self.watch = SizeWatch(lambda tensor: "x" if tensor is self.x else "y" if tensor is self.y else "new")


def found(use: Callable[[Tensor, Tensor], Any]) -> set[tuple[int, str, int, bool]]:
    """(dim of what was shaped, whose size it got, which dim's, whether that was divided)."""
    named = Named()
    with named.watch:
        use(named.x, named.y)
    assert {fact[0] for fact in named.watch.found} <= {"new"}
    return {(dim, source, source_dim, part) for _, dim, source, source_dim, part in named.watch.found}


def unpacked(x: Tensor, y: Tensor) -> Tensor:
    b, n, c = x.shape
    return y.reshape(c, n, b)


WHOLE = {(0, "x", 2, False), (1, "x", 1, False), (2, "x", 0, False)}
LAST = {(0, "x", 2, False)}
HEADS = {(2, "x", 2, True)}


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (unpacked, WHOLE),
        (lambda x, y: y.reshape(x.shape[::-1]), WHOLE),
        (lambda x, y: y.reshape(x.size()[::-1]), WHOLE),
        (lambda x, y: y.view(*reversed(x.shape)), WHOLE),
        (lambda x, y: y.view(size=[x.shape[-1], x.shape[-2], x.shape[-3]]), WHOLE),
        (lambda x, y: y.reshape(shape=(x.shape[2], -1)), LAST),
        (lambda x, y: y.reshape(x.size(2), -1), LAST),
        (lambda x, y: y.reshape(x.size(-1), -1), LAST),
        (lambda x, y: y.reshape(x.size(dim=-1), 12), LAST),
        (lambda x, y: torch.reshape(y, (x.shape[2], -1)), LAST),
        (lambda x, y: torch.reshape(y, shape=(x.shape[2], -1)), LAST),
        (lambda x, y: torch.reshape(input=y, shape=(x.shape[2], -1)), LAST),
        (lambda x, y: torch.reshape(shape=(x.shape[2], -1), input=y), LAST),
        (lambda x, y: y.reshape(torch.Size((*x.shape[2:], 12))), LAST),
        (lambda x, y: y.reshape((12, *x.shape[-1:])), {(1, "x", 2, False)}),
        (lambda x, y: y[:1].expand(x.shape[2], -1, -1), LAST),
        (lambda x, y: y[:1].expand(size=(x.shape[2], 6, 2)), LAST),
        (lambda x, y: y.view_as(x.permute(2, 1, 0)), {(dim, "new", dim, False) for dim in range(3)}),
        (lambda x, y: y.reshape_as(x), {(dim, "x", dim, False) for dim in range(3)}),
        (lambda x, y: y.reshape_as(other=x), {(dim, "x", dim, False) for dim in range(3)}),
        (lambda x, y: y.reshape(-1, 2, x.shape[2] // 2), HEADS),
        (lambda x, y: y.reshape(-1, 2, x.shape[2] // 2 // 1), HEADS),
        (lambda x, y: y.view(12, 2, 2).unflatten(2, (x.shape[2] // 2, 1)), HEADS),
        (lambda x, y: y.reshape(12, 4).unflatten(-1, (2, x.shape[-1] // 2)), HEADS),
        (lambda x, y: y.reshape(12, 4).unflatten(sizes=(2, x.shape[-1] // 2), dim=1), HEADS),
        (lambda x, y: torch.unflatten(y.reshape(12, 4), 1, (2, x.shape[-1] // 2)), HEADS),
        (lambda x, y: torch.unflatten(y.reshape(12, 4), sizes=(2, x.shape[-1] // 2), dim=1), HEADS),
        (lambda x, y: y.reshape(6, 8).split(x.shape[2], 1), {(1, "x", 2, False)}),
        (lambda x, y: y.reshape(6, 8).split(split_size=x.shape[2], dim=-1), {(1, "x", 2, False)}),
        (lambda x, y: torch.split(y.reshape(8, 6), [x.shape[2], 4]), LAST),
        (lambda x, y: torch.split(y.reshape(12, 4), x.shape[2] // 2, dim=-1), {(1, "x", 2, True)}),
        # nothing that was read of another tensor
        (lambda x, y: y.reshape(4, 12), set()),
        (lambda x, y: y.reshape(2 * x.shape[0], 12), set()),
        (lambda x, y: y.reshape(int(x.shape[2]), 12), set()),
        (lambda x, y: y.reshape(len(x) * 2, 12), set()),
        (lambda x, y: y[:, :, :1].reshape(4, 6, x[:, :, :1].shape[2]), set()),  # of one there can't be fewer
        (lambda x, y: y.split(x.shape[2], 0), set()),  # that's all there is
    ],
)  # fmt: skip
def test_where_a_size_went(use: Callable[[Tensor, Tensor], Any], expected: set[tuple[int, str, int, bool]]) -> None:
    assert found(use) == expected


def test_a_tensor_of_no_interest() -> None:
    x, y = torch.rand(2, 3), torch.rand(3, 2)
    for known in (x, y):
        watch = SizeWatch(lambda tensor, known=known: "known" if tensor is known else None)
        with watch:
            y.reshape(x.shape)
        assert watch.found == []


def test_sizes_are_integers() -> None:
    """Everything that takes an integer takes them, and gives what it gives for one."""

    @torch.jit.script
    def scripted(x: Tensor, n: int, sizes: list[int]) -> Tensor:
        return x.reshape(n, -1).expand(sizes)

    x = torch.rand(4, 6)
    with SizeWatch(id):
        b, c = x.shape
        assert (b, c) == (4, 6) == x.size() == x.shape
        assert isinstance(x.shape, torch.Size)
        assert isinstance(c, int)
        assert {6: "six"}[c] == "six"
        assert (str(c), f"{c:03d}", json.dumps([c]), list(range(c))[-1]) == ("6", "006", "[6]", 5)
        assert (c + 1, 2 * c, c / 4, c % 4, -c, c**-1, divmod(c, 4)) == (7, 12, 1.5, 2, -6, 1 / 6, (1, 2))
        assert (c // 4, c // 4.0, 13 // c, c // torch.tensor(4)) == (1, 1.0, 2, 1)
        assert torch.zeros(b, c).shape == x.new_ones((b, c)).shape == (4, 6)
        assert torch.arange(c).tolist() == [0, 1, 2, 3, 4, 5]
        assert torch.tensor([b, c]).dtype == torch.int64
        assert (x * c).dtype == torch.float32
        assert nn.functional.interpolate(x[None, None], (c, b)).shape == (1, 1, 6, 4)
        assert scripted(x, c, [c, b]).shape == (6, 4)
        with pytest.raises(ZeroDivisionError):
            c // 0


def test_what_is_kept_is_any_integer() -> None:
    """Copied and pickled nothing of the package is left."""
    with SizeWatch(id):
        kept = {"size": torch.rand(4, 6).shape, "half": torch.rand(4, 6).shape[1] // 2}
    assert type(kept["half"]) is not int
    for again in (pickle.loads(pickle.dumps(kept)), copy.deepcopy(kept)):
        assert again == kept
        assert [type(n) for n in (*again["size"], again["half"])] == [int, int, int]
    strings = [argument for _, argument, _ in pickletools.genops(pickle.dumps(kept)) if isinstance(argument, str)]
    assert not any("lightning_channels" in text for text in strings)


def test_a_size_that_was_kept_belongs_to_its_own_run() -> None:
    cached = functools.cache(lambda n: n)
    x, y = torch.rand(6, 4), torch.rand(4, 6)
    watches = [SizeWatch(lambda tensor: "any") for _ in range(2)]
    for watch in watches:
        with watch:
            y.reshape(cached(x.shape[0]), 4)
    assert [len(watch.found) for watch in watches] == [1, 0]


def test_a_size_that_was_kept_holds_nothing() -> None:
    class Key:
        pass

    keys = [Key()]
    watch = SizeWatch(lambda tensor: keys[0])
    with watch:
        kept = torch.rand(4, 6).shape
    gone = weakref.ref(keys.pop())
    del watch
    gc.collect()
    assert gone() is None
    assert kept == (4, 6)


class Borrowing(nn.Module):
    """A view by another tensor's sizes, and all kinds of places to keep these."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 3)
        self.seen: dict[str, Any] = {}
        self.nested: dict[str, list[int]] = {"sizes": []}
        self.last: Any = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, n, c = x.shape
        self.last, self.seen["c"] = c, c
        self.nested["sizes"].append(c)
        return self.head(self.c(torch.relu(self.b(x))).reshape(b, n, c) + 1)


def facts(program: Program) -> set[tuple[str, int, str, int, bool]]:
    """What was borrowed, by the operators that made the tensors."""
    made = {out.id: op.name for op in program.ops for out in op.outputs if out is not None}
    return {(made[f.target], f.dim, made[f.source], f.source_dim, f.part) for f in program.borrowed}


@pytest.mark.parametrize("tracer", [ForwardTracer, BackwardTracer])
def test_recorders_note_what_was_borrowed(tracer: type[ForwardTracer] | type[BackwardTracer]) -> None:
    graph = tracer().trace(Borrowing(), torch.rand(2, 4, 5))
    for walk in graph.walks:
        assert all(isinstance(fact, Borrowed) for fact in walk.program.borrowed)
        assert (2, 2) in {(fact.dim, fact.source_dim) for fact in walk.program.borrowed}
    (joint,) = (group for group in graph.groups if group.pin is None and len(group.classes) == 8)
    assert {("a", "out_features"), ("c", "out_features")} <= {(run.side.module, run.side.key) for run in joint.runs}


def test_a_prepared_model_keeps_no_sizes() -> None:
    model = Borrowing()
    ChannelMutator().prepare_from_supernet(model, torch.rand(2, 4, 5))
    assert model.seen == {}
    assert model.last is None
    # what is kept deeper than that stays, as whatever else a forward pass does there, and is stored as an integer
    again = pickle.loads(pickle.dumps(model.nested))["sizes"]
    assert set(map(type, again)) <= {int}
    model(torch.rand(2, 4, 5))
    assert type(model.last) is int
