"""What a tracer records: the operators that ran, in order, with references in the place of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_channels.tracing.borrowing import Borrowed

__all__ = ["Call", "Op", "Program", "Ref", "refs_in"]


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor of the program, by number."""

    id: int


@dataclass(slots=True)
class Op:
    """One operator call.

    Attributes:
        func: The ATen overload.
        args: Positional arguments; tensors are :class:`Ref`.
        kwargs: Keyword arguments, likewise.
        outputs: One :class:`Ref` for each tensor that it returned (``None`` for what is no tensor). An in-place
            operator returns the reference of the tensor that it changed.
        module: Dotted name of the innermost module that was running.
        line: The user's code that called it, ``"file.py:123"``: the innermost line that is neither PyTorch's nor this
            package's.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Ref | None, ...]
    module: str
    line: str = ""
    _inputs: list[Ref] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The operator's name without namespace and overload (``"convolution"``)."""
        return str(self.func.overloadpacket.__name__)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, whether it was passed by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def inputs(self) -> list[Ref]:
        """References of all tensors that it read, in order."""
        if self._inputs is None:
            self._inputs = [*refs_in(self.args), *refs_in(self.kwargs)]
        return self._inputs


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module.

    Attributes:
        module: Its dotted name.
        outputs: Reference of each tensor that it returned, in order; -1 for a tensor that is none of the program's.
        end: Number of the program's operators that had run when it ended.
    """

    module: str
    outputs: tuple[int, ...]
    end: int


@dataclass(slots=True)
class Program:
    """A recorded forward pass.

    Attributes:
        ops: The operators that depended on the model's tensors or inputs.
        shapes: Shape of each reference.
        dtypes: Its dtype, where the program is complete.
        leaves: Reference → name of the parameter or floating buffer (as in ``named_parameters``).
        inputs: References of the model's input tensors.
        outputs: References of the tensors that the model returned.
        constants: Reference → tensor that was made in the forward pass without the model's tensors or inputs, or that
            is an integer buffer.
        written: References of constants that something computed by the model is written into; ``constants`` has what
            was in them before.
        calls: The module calls, in the order in which they ended.
        random: Whether an operator drew random numbers.
        complete: Whether the operators have all of their arguments, so that it can be run again.
        borrowed: Where code read the size of one tensor to shape another.
    """

    ops: list[Op] = field(default_factory=list)
    shapes: dict[int, torch.Size] = field(default_factory=dict)
    dtypes: dict[int, torch.dtype] = field(default_factory=dict)
    leaves: dict[int, str] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    constants: dict[int, torch.Tensor] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    random: bool = False
    complete: bool = True
    borrowed: list[Borrowed] = field(default_factory=list)

    def unused(self) -> list[str]:
        """Names of the leaves that no operator read."""
        used = {ref.id for op in self.ops for ref in op.inputs()}
        return [name for ref, name in self.leaves.items() if ref not in used]


def refs_in(tree: Any) -> Iterator[Ref]:
    """All references in nested lists, tuples and dicts."""
    if isinstance(tree, Ref):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from refs_in(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from refs_in(item)
