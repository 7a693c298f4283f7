"""Records the operators of one forward pass at the ATen level.

Below autograd and above the kernels, every Python model is a flat list of about a hundred different operators, whatever
its code looks like: no symbolic tracing, no rewriting, hard-coded control flow is fine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_channels.tracing.program import Op, Program, Ref

__all__ = ["Recorder", "record", "tensors_in"]

_MARK = "_lightning_channels_ref"
_FACTORIES = {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"}
"""These take nothing but device and dtype from their operand; what they make is a constant."""


class Recorder(TorchDispatchMode):
    """Dispatch mode that appends every operator which depends on marked tensors to a :class:`Program`.

    Marks are attributes of the tensor objects: PyTorch keeps these for as long as the tensor lives, also while only C++
    holds it, and identity alone would be reused by the next tensor.
    """

    def __init__(self, program: Program, module_stack: list[str]) -> None:
        super().__init__()
        self.program = program
        self._stack = module_stack
        self._token = object()
        self._next = 0

    def mark(self, tensor: torch.Tensor) -> Ref:
        """Give a tensor a reference of its own."""
        ref = Ref(self._next)
        self._next += 1
        setattr(tensor, _MARK, (self._token, ref))
        self.program.shapes[ref.id] = tensor.shape
        return ref

    def ref(self, tensor: torch.Tensor) -> Ref | None:
        """The reference of a tensor, if it has one."""
        token, ref = getattr(tensor, _MARK, (None, None))
        return ref if token is self._token else None

    def _reference(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            ref = self.ref(value)
            if ref is None:
                ref = self.mark(value)
                self.program.constants[ref.id] = value
            return ref
        if isinstance(value, (list, tuple)):
            return [self._reference(item) for item in value]
        return value

    def _depends(self, tree: Any) -> bool:
        if isinstance(tree, torch.Tensor):
            ref = self.ref(tree)
            return ref is not None and (ref.id not in self.program.constants or ref.id in self.program.written)
        return isinstance(tree, (list, tuple)) and any(self._depends(item) for item in tree)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        depends = self._depends(args) or self._depends(list(kwargs.values()))
        if depends and func._schema.is_mutable and isinstance(args[0], torch.Tensor) and not self._depends(args[0]):
            self._written(args[0])
        result = func(*args, **kwargs)
        if not depends or func.overloadpacket.__name__ in _FACTORIES:
            return result
        arguments = tuple(self._reference(arg) for arg in args)
        keywords = {key: self._reference(value) for key, value in kwargs.items()}
        outputs = result if isinstance(result, (list, tuple)) else (result,)
        references = tuple(self._output(func, out) for out in outputs)
        self.program.ops.append(Op(func, arguments, keywords, references, self._stack[-1]))
        return result

    def _output(self, func: Any, out: Any) -> Ref | None:
        if not isinstance(out, torch.Tensor):
            return None
        ref = self.ref(out)
        return ref if ref is not None and func._schema.is_mutable else self.mark(out)

    def _written(self, tensor: torch.Tensor) -> None:
        """A tensor made in ``forward`` is about to be written to: from here on it depends on the model.

        Where it is a view, what it is a view of does too. How the view was made wasn't recorded, because until now it
        was nothing to the model; where it lies says the same.
        """
        base = tensor if tensor._base is None else tensor._base
        whole = self.ref(base) or self.mark(base)
        if whole.id not in self.program.written:
            self.program.constants[whole.id] = base.detach().clone()
            self.program.written.add(whole.id)
        if tensor is not base:
            place = ([*tensor.shape], [*tensor.stride()], tensor.storage_offset())
            func = torch.ops.aten.as_strided.default
            self.program.ops.append(Op(func, (whole, *place), {}, (self.mark(tensor),), self._stack[-1]))


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested containers, dataclasses and plain objects, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


def record(model: nn.Module, run: Callable[[], Any], inputs: Any) -> Program:
    """Run a model once and record what it did.

    Args:
        model: Its parameters and floating buffers become the program's leaves.
        run: Calls the model on ``inputs`` and returns its outputs.
        inputs: What the model is called with; its tensors become the program's inputs.

    Returns:
        The program; the model's tensors are left without any mark.
    """
    program = Program()
    stack = [""]
    recorder = Recorder(program, stack)
    named = [*model.named_parameters(), *model.named_buffers()]
    marked: list[torch.Tensor] = [tensor for _, tensor in named]
    try:
        for name, tensor in named:
            ref = recorder.mark(tensor)
            if tensor.is_floating_point():
                program.leaves[ref.id] = name
            else:
                program.constants[ref.id] = tensor
        for tensor in tensors_in(inputs):
            program.inputs.append(recorder.mark(tensor).id)
        with _module_names(model, stack), torch.no_grad(), recorder:
            outputs = run()
        for tensor in tensors_in(outputs):
            ref_or_none = recorder.ref(tensor)
            if ref_or_none is not None:
                program.outputs.append(ref_or_none.id)
    finally:
        for tensor in marked:
            if hasattr(tensor, _MARK):
                delattr(tensor, _MARK)
    return program


@contextmanager
def _module_names(model: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the dotted name of the running module on top of ``stack``."""
    names = {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(names.get(module, stack[-1]))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
