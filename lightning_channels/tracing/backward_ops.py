"""Which operator an autograd node stands for, and what it was called with.

A node is named after its operator (``"MeanBackward1"``), points to where its differentiable operands come from, and has
those arguments that the derivative needs as attributes (``_saved_dim``). Which overload that is follows from both.
Saved tensors aren't read: they may be overwritten by now. Places (of an index or an embedding) are the exception.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

__all__ = ["OpaqueFunc", "Signature", "is_identity", "name_of", "saved_arguments", "saved_places", "signature_of"]

_UNDIFFERENTIABLE = {
    "index", "indices", "mask", "condition", "running_mean", "running_var", "target", "offsets", "offset2bag",
    "bag_size", "maximum_indices", "lengths", "attn_mask", "random_samples", "noise", "batch_sizes", "dropout_mask",
    "philox_seed", "philox_offset", "rng_state", "weight_buf", "dropout_state",
}  # fmt: skip
"""Names of the tensors that operators have no derivative for, so that a node doesn't say where these come from."""

_UNDIFFERENTIABLE_OF = {
    "aten::_scaled_dot_product_cudnn_attention": {"attn_bias"},
    "aten::_grouped_mm": {"offs", "bias"},
}
"""The same, for single operators."""

_PLACES = {"index", "indices"}
_BY_HAND = {"CopyBackwards": "aten::copy", "IndexPutImplBackward0": "aten::index_put"}
"""Nodes that aren't named after their operator."""


@dataclass(frozen=True, slots=True)
class Signature:
    """An operator with the roles of its arguments.

    Attributes:
        func: The ATen overload.
        edges: Names of the arguments that a node says the origin of, in order; the one that is a list has all the rest.
        tensors: Names of all arguments that are tensors or lists of such.
    """

    func: Any
    edges: tuple[str, ...]
    tensors: frozenset[str]

    @property
    def list_of_edges(self) -> str | None:
        """Name of the argument that is a list of differentiable tensors, as in a concatenation."""
        lists = {a.name for a in self.func._schema.arguments if str(a.type).startswith("List")}
        return next((name for name in self.edges if name in lists), None)


@dataclass(frozen=True)
class OpaqueFunc:
    """In the place of an operator: a node whose operator isn't known. What reaches it is pinned.

    Attributes:
        name: Of the node.
        reason: Why it isn't known.
    """

    name: str
    reason: str
    is_view: bool = False
    namespace: str = "autograd"
    tags: tuple[Any, ...] = ()
    _overloadname: str = "default"
    _schema: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        schema = SimpleNamespace(name=f"{self.namespace}::{self.name}", is_mutable=False, arguments=(), returns=())
        object.__setattr__(self, "_schema", schema)

    @property
    def overloadpacket(self) -> Any:
        """What has the operator's name."""
        return SimpleNamespace(__name__=self.name)


@cache
def _operators() -> dict[str, list[str]]:
    """Name of a node without its number → the operators whose nodes may have it."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        base = rest.partition(".")[0]
        if namespace == "aten" and (not base.endswith("_") or base.startswith("__")):
            words = "".join(word.title() for word in base.split("_"))
            found[f"{words}Backward".replace("ForwardBackward", "Backward")].append(name)
    return found


@cache
def _signatures(node_name: str) -> list[Signature]:
    """The overloads that a node may stand for; those that autograd sees in parts are the last resort."""
    names = [_BY_HAND[node_name]] if node_name in _BY_HAND else _operators().get(re.sub(r"\d+$", "", node_name), [])
    whole = [
        name for name in names if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
    ]
    found = []
    for name in whole or names:
        base, _, overload = name.removeprefix("aten::").partition(".")
        func = getattr(getattr(torch.ops.aten, base), overload or "default")
        if not any(argument.is_out for argument in func._schema.arguments):
            found.append(_signature(func))
    return found


def _signature(func: Any) -> Signature:
    tensors = [argument.name for argument in func._schema.arguments if "Tensor" in str(argument.type)]
    without = _UNDIFFERENTIABLE | _UNDIFFERENTIABLE_OF.get(func._schema.name, set())
    return Signature(func, tuple(name for name in tensors if name not in without), frozenset(tensors))


def name_of(node: Any) -> str:
    """A node's name, without the C++ namespace that those which are written by hand have."""
    return str(node.name()).removeprefix("torch::autograd::")


def signature_of(node: Any) -> Signature | None:
    """The operator of a node; ``None`` if it isn't known."""
    found = [signature for signature in _signatures(name_of(node)) if _fits(signature, node)]
    # of those that have all that was saved, the one that has the least besides; stack rather than _stack
    return min(
        found, key=lambda s: (len(s.func._schema.arguments), s.func._schema.name.startswith("aten::_")), default=None
    )


def _fits(signature: Signature, node: Any) -> bool:
    given, wanted = len(node.next_functions), len(signature.edges)
    if given != wanted and (signature.list_of_edges is None or given < wanted - 1):
        return False
    kinds = {argument.name: str(argument.type) for argument in signature.func._schema.arguments}
    for name in {argument.name for other in _signatures(name_of(node)) for argument in other.func._schema.arguments}:
        if not hasattr(type(node), f"_saved_{name}"):  # of the node itself, a tensor would be read
            continue
        is_tensor = hasattr(type(node), f"_raw_saved_{name}")
        if name not in kinds or is_tensor != (name in signature.tensors):
            return False
        if not is_tensor and not _is_of(getattr(node, f"_saved_{name}"), kinds[name]):
            return False
    return True


def _is_of(value: Any, kind: str) -> bool:
    """Whether a saved value may have been given to an argument of a kind (``"Optional[List[int]]"``)."""
    return value is None or isinstance(value, (tuple, list)) == ("List" in kind)


def saved_arguments(node: Any, signature: Signature) -> Mapping[str, Any]:
    """The arguments that a node has saved, apart from tensors; and of these, those that name places.

    A tensor that was overwritten since is left out.
    """
    found: dict[str, Any] = {}
    for argument in signature.func._schema.arguments:
        name = argument.name
        if name in signature.tensors and name not in _PLACES:
            continue
        try:
            value = getattr(node, f"_saved_{name}", None)
        except RuntimeError:  # overwritten
            continue
        if value is not None:
            found[name] = _plain(value)
    return found


def saved_places(node: Any) -> Tensor | None:
    """The places that an operator gave as its second result, as a maximum does, if its node has saved them."""
    signature = signature_of(node)
    own = {argument.name for argument in signature.func._schema.arguments} if signature is not None else set()
    name = next((n for n in ("indices", "result1") if n not in own and hasattr(type(node), f"_saved_{n}")), None)
    if name is None:
        return None
    try:
        value = getattr(node, f"_saved_{name}")
    except RuntimeError:  # overwritten
        return None
    return value if isinstance(value, Tensor) and not value.is_floating_point() else None


def is_identity(signature: Signature, arguments: Mapping[str, Any], shape: Sequence[int]) -> bool:
    """Whether a strided view is what it is a view of, row by row: average pooling makes one of its result."""
    if signature.func is not torch.ops.aten.as_strided.default or arguments["storage_offset"]:
        return False
    size, rows, step = arguments["size"], [], 1
    for length in reversed(size):
        rows.append(step)
        step *= length
    given = zip(size, arguments["stride"], reversed(rows), strict=True)
    return list(shape) == size and all(length == 1 or stride == row for length, stride, row in given)


def _plain(value: Any) -> Any:
    """Lists in the place of tuples; and negative numbers, which nodes show as unsigned ones."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value - 2**64 if type(value) is int and value >= 2**63 else value
