"""What the model is called with, for each kind of batch, where the user doesn't say so."""

from __future__ import annotations

import dataclasses
import types
from collections import OrderedDict, UserDict, namedtuple
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from lightning_channels import ConfigError, recalibrate_batch_norm
from lightning_channels.recalibration.inputs import default_forward

X, Y, LABEL = torch.arange(6.0).reshape(3, 2), torch.full((3, 2), 7.0), torch.tensor([0, 1, 2])


class Calls(nn.Module):
    """Its subclasses write down what they were called with."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.got: Any = None


class OfOne(Calls):
    def forward(self, z: Any) -> None:
        self.got = z


class OfTwo(Calls):
    def forward(self, a: Any, b: Any, scale: float = 1.0) -> None:
        self.got = (a, b, scale)


class OfOptional(Calls):
    def forward(self, first: Any = None, labels: Any = None) -> None:
        self.got = (first, labels)


class OfNamesAndMore(Calls):
    def forward(self, a: Any, **kwargs: Any) -> None:
        self.got = (a, kwargs)


class OfAnything(Calls):
    def forward(self, *args: Any, **kwargs: Any) -> None:
        self.got = (args, kwargs)


class OfPositions(Calls):
    def forward(self, x: Any, /) -> None:
        self.got = x


Pair = namedtuple("Pair", ["first", "target"])


class Named(NamedTuple):
    a: Tensor
    label: Tensor
    b: Tensor


@dataclasses.dataclass(frozen=True)
class Fields:
    b: Tensor
    label: Tensor
    a: Tensor
    derived: int = dataclasses.field(init=False, default=3)


@dataclasses.dataclass
class Other:
    picture: Any
    target: Tensor


CASES = [
    # a tensor, and what begins with one
    (OfOne, X, X),
    (OfOne, (X, LABEL), X),
    (OfOne, [X, LABEL], X),
    (OfOne, [X], X),
    # a dict or tuple of inputs comes first
    (OfTwo, ({"a": X, "b": Y}, LABEL), (X, Y, 1.0)),
    (OfTwo, [UserDict(b=Y, a=X, scale=2.0), LABEL], (X, Y, 2.0)),
    (OfTwo, ((X, Y), LABEL), (X, Y, 1.0)),
    (OfTwo, [(X, Y, 3.0)], (X, Y, 3.0)),
    (OfTwo, (Pair(X, Y), LABEL), (X, Y, 1.0)),
    (OfTwo, (Fields(b=Y, label=LABEL, a=X), LABEL), (X, Y, 1.0)),
    (OfAnything, ({"image": X, "mask": Y}, LABEL), ((), {"image": X, "mask": Y})),
    (OfOne, ({"image": X, "name": "cat"}, LABEL), X),
    # mappings: by name where all that is required is there
    (OfTwo, {"label": LABEL, "b": Y, "a": X}, (X, Y, 1.0)),
    (OfTwo, UserDict(label=LABEL, b=Y, a=X, scale=2.0), (X, Y, 2.0)),
    (OfTwo, types.MappingProxyType({"b": Y, "a": X}), (X, Y, 1.0)),
    (OfTwo, OrderedDict(image=Y, b=Y, a=X), (X, Y, 1.0)),
    (OfOptional, {"labels": LABEL, "first": X, 3: "a key that is no name"}, (X, LABEL)),
    (OfOptional, {"labels": LABEL}, (None, LABEL)),
    (OfNamesAndMore, {"a": X, "b": Y}, (X, {"b": Y})),
    (OfAnything, {"a": X, "b": Y}, ((), {"a": X, "b": Y})),
    # else an entry of a usual name
    *[(OfOne, {"label": LABEL, key: X}, X) for key in ("pixel_values", "image", "x", "images", "input", "inputs")],
    (OfOne, UserDict(label=LABEL, images=X), X),
    (OfOne, {"image": "cat.png", "input": X}, X),
    (OfOne, {"image": Y, "pixel_values": X}, X),
    (OfOptional, {"labels": LABEL, "image": X}, (X, None)),
    (OfAnything, {"label": LABEL, "image": X}, ((X,), {})),
    (OfPositions, {"x": X}, X),
    # named tuples and dataclasses: by name, else the first field
    (OfTwo, Named(X, LABEL, Y), (X, Y, 1.0)),
    (OfTwo, Fields(b=Y, label=LABEL, a=X), (X, Y, 1.0)),
    (OfOne, Pair(X, Y), X),
    (OfOne, Other(X, LABEL), X),
    (OfTwo, Other((X, Y), LABEL), (X, Y, 1.0)),
    (OfTwo, Pair({"a": X, "b": Y}, LABEL), (X, Y, 1.0)),
    (OfAnything, Pair(X, Y), ((X,), {})),
    (OfOne, namedtuple("Late", ["label", "image"])(LABEL, X), X),
]


def identical(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, Tensor):
        return isinstance(ours, Tensor) and torch.equal(ours, theirs)
    if isinstance(theirs, tuple):
        return len(ours) == len(theirs) and all(map(identical, ours, theirs))
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(identical(ours[key], theirs[key]) for key in theirs)
    return ours == theirs


@pytest.mark.parametrize(("kind", "batch", "expected"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_every_kind_of_batch(kind: type[Calls], batch: Any, expected: Any) -> None:
    model = kind()
    default_forward(model, batch)
    assert identical(model.got, expected), model.got


def test_the_statistics_of_inputs_by_name() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.norm(left + 2 * right)

    for batch in ({"right": Y, "left": X}, UserDict(left=X, right=Y), ((X, Y), LABEL), ({"left": X, "right": Y}, 0)):
        model = Sum()
        recalibrate_batch_norm(model, [batch])
        assert model.norm.running_mean.tolist() == [2 + 14, 3 + 14]  # the columns of X are 0, 2, 4 and 1, 3, 5
        assert model.norm.running_var.tolist() == [4, 4]


def test_a_tokenizers_batch() -> None:
    transformers = pytest.importorskip("transformers")
    batch = transformers.BatchEncoding({"a": X, "b": Y, "labels": LABEL})
    model = OfTwo()
    default_forward(model, batch)
    assert identical(model.got, (X, Y, 1.0))


def test_tensors_at_any_depth_are_moved_and_the_batch_is_left_alone() -> None:
    model = OfOne().to("meta")
    packed = pack_sequence([torch.ones(2, 2), torch.ones(1, 2)])
    nested = {
        "list": [X, (Y, "word")],
        "named": Pair(X, 1),
        "user": UserDict(x=X),
        "frozen": types.MappingProxyType({"x": X}),
        "data": Fields(X, LABEL, Y),
        "packed": packed,
        "size": X.shape,
        "none": None,
    }
    default_forward(model, ((nested,), LABEL))
    got = model.got
    moved = [got["list"][0], got["list"][1][0], got["named"].first, got["user"]["x"], got["frozen"]["x"]]
    assert all(tensor.device.type == "meta" for tensor in [*moved, got["data"].a, got["data"].b, got["packed"].data])
    assert isinstance(got["user"], UserDict)
    assert isinstance(got["packed"], PackedSequence)
    assert got["packed"].batch_sizes.device.type == "cpu"  # as torch wants it
    assert (got["list"][1][1], got["named"].target, got["data"].derived) == ("word", 1, 3)
    assert (got["size"], got["none"]) == (X.shape, None)
    kept = [nested["list"][0], nested["user"]["x"], nested["data"].a, nested["packed"].data]
    assert all(tensor.device.type == "cpu" for tensor in kept)
    for batch in (X, (X, Y), {"x": X}, {"z": X}, Other(X, LABEL), packed):
        default_forward(model, batch)
        assert (model.got.data if isinstance(model.got, PackedSequence) else model.got).device.type == "meta"


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (None, "a batch of type NoneType"),
        ("word", "a batch of type str"),
        ((), "type tuple that is empty"),
        (["word"], "type list that begins with str"),
        ([[X], LABEL], "type list that begins with list"),
        ((("word", 1), LABEL), "type tuple that begins with tuple"),
        (({"c": X}, LABEL), "type tuple that begins with dict"),
        ({}, r"type dict with the keys \(none\)"),
        ({"a": X, "label": LABEL}, "type dict with the keys a, label"),
        ({"a": 1, "b": 2}, "type dict with the keys a, b"),
        ({"image": "cat.png"}, "type dict with the keys image"),
        (UserDict(c=X), "type UserDict with the keys c"),
        (Pair("word", X), "type Pair with the fields first, target"),
        (Other(None, LABEL), "type Other with the fields picture, target"),
        (Other, "a batch of type type"),
    ],
)
def test_one_clear_error(batch: Any, message: str) -> None:
    rest = r"\. OfTwo.forward takes \(a, b, scale\): .* pixel_values, .*, inputs would do; else pass forward=lambda"
    with pytest.raises(ConfigError, match=f"^found no input in .*{message}{rest}"):
        recalibrate_batch_norm(OfTwo(), [batch])
