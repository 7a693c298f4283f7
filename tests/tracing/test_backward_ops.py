"""Operators and their nodes, held against the table that PyTorch makes the nodes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchgen
import yaml
from torch import Tensor

from lightning_channels.tracing.backward_ops import _operators, _signature, saved_arguments, signature_of
from lightning_channels.tracing.rules import RULES

TABLE = Path(torchgen.__file__).parent / "packaged" / "autograd" / "derivatives.yaml"
NO_OPERANDS = {"name", "output_differentiability", "result", "dispatch"}


def derivatives() -> dict[str, set[str]]:
    """Operator (``"mean.dim"``) → the names that its derivatives are listed under, for those that have a rule."""
    found = {}
    for entry in yaml.load(TABLE.read_text(), yaml.CSafeLoader):
        name = entry["name"].partition("(")[0].strip()
        if name.partition(".")[0] not in RULES or name.partition(".")[0].endswith("_"):
            continue
        formulas = entry.get("dispatch", {}).get("Default", entry)
        keys = [key for key, value in formulas.items() if key not in NO_OPERANDS and value != "non_differentiable"]
        found[name] = {part.strip() for key in keys for part in key.split(",")}
    return {name: operands for name, operands in found.items() if operands}


def overload(name: str) -> Any:
    base, _, suffix = name.partition(".")
    return getattr(getattr(torch.ops.aten, base), suffix or "default")


def test_pytorch_lists_the_same_operands_for_every_operator_with_a_rule() -> None:
    table = derivatives()
    assert len(table) > 150
    for name, operands in table.items():
        func = overload(name)
        names = [argument.name for argument in func._schema.arguments]
        expected = tuple(argument for argument in names if argument in operands)
        assert _signature(func).edges == expected, name


def test_every_operator_with_a_rule_is_found_by_the_name_of_its_node() -> None:
    known = {name for names in _operators().values() for name in names}
    for name in derivatives():
        assert f"aten::{name}" in known, name


@pytest.mark.parametrize(
    ("run", "name", "arguments"),
    [
        (lambda x: x.mean(), "mean", {}),
        (lambda x: x.mean(-1), "mean.dim", {"dim": [-1], "keepdim": False}),
        (lambda x: x.squeeze(), "squeeze", {}),
        (lambda x: x.squeeze(-1), "squeeze.dim", {"dim": -1}),
        (lambda x: x.squeeze((0, -1)), "squeeze.dims", {"dim": [0, -1]}),
        (lambda x: x + 1, "add.Tensor", {"alpha": 1}),
        (lambda x: x**2, "pow.Tensor_Scalar", {"exponent": 2}),
        (lambda x: 2**x, "pow.Scalar", {"self": 2}),
        (lambda x: x**x, "pow.Tensor_Tensor", {}),
        (lambda x: x.clamp(0, 1), "clamp", {"min": 0, "max": 1}),
        (lambda x: x.clamp(x, x), "clamp.Tensor", {}),
        (lambda x: x.relu_(), "relu", {}),
        (lambda x: torch.cat([x, x], -2), "cat", {"dim": -2}),
        (lambda x: torch.stack([x, x], 1), "stack", {"dim": 1}),
        (lambda x: x.softmax(-1), "_softmax", {"dim": -1, "half_to_float": None}),
        (lambda x: x.max(1).values, "max.dim", {"dim": 1, "keepdim": False}),
        (lambda x: x.transpose(-1, 0), "transpose.int", {"dim0": -1, "dim1": 0}),
        (lambda x: x.split(2, 1)[0], "split.Tensor", {"split_size": 2, "dim": 1}),
        (lambda x: x.split([1, 3], 1)[0], "split_with_sizes", {"split_sizes": [1, 3], "dim": 1}),
        (lambda x: torch.zeros_like(x).copy_(x), "copy", {}),
    ],
)
def test_overloads_and_arguments(run: Any, name: str, arguments: dict[str, Any]) -> None:
    x = torch.rand(3, 4, requires_grad=True) * 1
    node = run(x).grad_fn
    signature = signature_of(node)
    assert signature is not None
    assert signature.func is overload(name)
    saved = saved_arguments(node, signature)
    assert not any(isinstance(value, Tensor) for value in saved.values())
    assert {key: saved.get(key) for key in arguments} == arguments
