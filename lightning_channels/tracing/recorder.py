"""Records the operators of one forward pass at the ATen level.

Below autograd and above the kernels, every Python model is a flat list of about a hundred different operators, whatever
its code looks like: no symbolic tracing, no rewriting, hard-coded control flow is fine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_channels._modules import named_modules_of, named_tensors_of
from lightning_channels.tracing.borrowing import FOLLOWED, Borrowed, SizeWatch
from lightning_channels.tracing.chance import certain
from lightning_channels.tracing.following import following
from lightning_channels.tracing.program import Call, Op, Program, Ref
from lightning_channels.tracing.source_lines import calling_line
from lightning_channels.tracing.stand_ins import StandIns, ValuesNeededError

__all__ = ["Recorder", "record", "tensors_in"]

_MARK = "_lightning_channels_ref"
_FACTORIES = {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"}
"""These take nothing but device and dtype from their operand; what they make is a constant."""


@dataclasses.dataclass(slots=True)
class _Mark:
    """What a recorder knows of a tensor.

    Attributes:
        recorder: Whose mark it is.
        ref: The tensor's number.
        depends: Whether the tensor depends on the model's tensors or inputs.
        is_real: Whether its values are known.
    """

    recorder: Recorder
    ref: Ref
    depends: bool
    is_real: bool


class Recorder(TorchDispatchMode):
    """Dispatch mode that appends every operator which depends on marked tensors to a :class:`Program`.

    Marks are attributes of the tensor objects: PyTorch keeps these for as long as the tensor lives, also while only C++
    holds it, and identity alone would be reused by the next tensor.

    Args:
        program: What is appended to.
        module_stack: On top of it is the name of the module that is running.
        stand_ins: Makes stand-ins for what is heavy to compute; ``None`` to compute everything.
    """

    def __init__(self, program: Program, module_stack: list[str], stand_ins: StandIns | None = None) -> None:
        super().__init__()
        self.program = program
        self.overwritten: dict[int, tuple[Tensor, Tensor]] = {}
        self.needs_values = False
        self._stack = module_stack
        self._stand_ins = stand_ins
        self._next = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spares a wrapper around each operator; nothing is compiled while recording."""
        return False

    def mark(self, tensor: Tensor, depends: bool = True, is_real: bool = True) -> Ref:
        """Give a tensor a reference of its own."""
        ref = Ref(self._next)
        self._next += 1
        setattr(tensor, _MARK, _Mark(self, ref, depends, is_real))
        self.program.shapes[ref.id] = tensor.shape
        self.program.dtypes[ref.id] = tensor.dtype
        return ref

    def find(self, tensor: Tensor) -> _Mark | None:
        """The mark of a tensor, if it has one."""
        mark: _Mark | None = getattr(tensor, _MARK, None)
        return mark if mark is not None and mark.recorder is self else None

    def ref(self, tensor: Tensor) -> Ref | None:
        """The reference of a tensor, if it has one."""
        mark = self.find(tensor)
        return None if mark is None else mark.ref

    def _reference(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            ref = self.ref(value)
            if ref is None:
                ref = self.mark(value, depends=False)
                self.program.constants[ref.id] = value
            return ref
        if isinstance(value, (list, tuple)):
            return [self._reference(item) for item in value]
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors: list[Tensor] = []
        _collect(args, tensors)
        if kwargs:
            _collect(kwargs.values(), tensors)
        marks = [self.find(tensor) for tensor in tensors]
        draw = certain(func, args, kwargs)
        if draw is not None:
            self.program.random = True
        if not any(mark is not None and mark.depends for mark in marks):
            return (draw or func)(*args, **kwargs)
        if func._schema.is_mutable and isinstance(args[0], Tensor):
            self._write(args[0], marks[0])
        if draw is None:
            result, is_real = self._run(func, args, kwargs, tensors, marks)
        else:
            result, is_real = draw(*args, **kwargs), all(mark is None or mark.is_real for mark in marks)
        if func.overloadpacket.__name__ in _FACTORIES:
            return result
        arguments = tuple([self._reference(arg) for arg in args])
        keywords = {key: self._reference(value) for key, value in kwargs.items()}
        outputs = result if isinstance(result, (list, tuple)) else (result,)
        references = tuple([self._output(func, out, is_real) for out in outputs])
        self.program.ops.append(Op(func, arguments, keywords, references, self._stack[-1], calling_line()))
        return result

    def _run(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], marks: list[_Mark | None]
    ) -> tuple[Any, bool]:
        if self._stand_ins is None:
            return func(*args, **kwargs), True
        try:
            if self.needs_values:  # the model has handled the error
                raise ValuesNeededError
            is_real = [mark is None or mark.is_real for mark in marks]
            return self._stand_ins.run(func, args, kwargs, tensors, is_real)
        except ValuesNeededError:
            self.needs_values = True
            raise

    def _output(self, func: Any, out: Any, is_real: bool) -> Ref | None:
        if not isinstance(out, Tensor):
            return None
        ref = self.ref(out)
        return ref if ref is not None and func._schema.is_mutable else self.mark(out, True, is_real)

    def _write(self, tensor: Tensor, mark: _Mark | None) -> None:
        """A tensor is about to be written to."""
        base = tensor if tensor._base is None else tensor._base
        whole = self.find(base)
        if whole is not None and whole.ref.id in self.program.leaves:
            self.overwritten.setdefault(whole.ref.id, (base, base.detach().clone()))
        if mark is None or not mark.depends:
            self._written(tensor, base, whole)

    def _written(self, tensor: Tensor, base: Tensor, whole: _Mark | None) -> None:
        """A tensor made in ``forward`` is about to be written to: from here on it depends on the model.

        Where it is a view, what it is a view of does too. How the view was made wasn't recorded, because until now it
        was nothing to the model; where it lies says the same.
        """
        ref = self.mark(base) if whole is None else whole.ref
        if whole is not None:
            whole.depends = True
        if ref.id not in self.program.written:
            self.program.constants[ref.id] = base.detach().clone()
            self.program.written.add(ref.id)
        if tensor is not base:
            place = ([*tensor.shape], [*tensor.stride()], tensor.storage_offset())
            func, outputs = torch.ops.aten.as_strided.default, (self.mark(tensor),)
            self.program.ops.append(Op(func, (ref, *place), {}, outputs, self._stack[-1], calling_line()))


def _collect(values: Iterable[Any], tensors: list[Tensor]) -> None:
    """Append all tensors in (nested lists of) arguments."""
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], int):
            _collect(value, tensors)


_READERS = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__deepcopy__, Tensor.data_ptr, Tensor.untyped_storage}
"""They get at a tensor's memory without any operator."""


_GUARDED = FOLLOWED | _READERS


class _Guard(SizeWatch):
    """Follows sizes, and stops what would read values that aren't there, behind the recorder's back."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(self._number)
        self._recorder = recorder

    def _number(self, tensor: Tensor) -> int | None:
        mark = self._recorder.find(tensor)
        return None if mark is None or not mark.depends else mark.ref.id

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _GUARDED:
            return func(*args, **kwargs) if kwargs else func(*args)
        if func in _READERS:
            mark = self._recorder.find(args[0])
            if mark is not None and not mark.is_real:
                self._recorder.needs_values = True
                raise ValuesNeededError
        return super().__torch_function__(func, types, args, kwargs)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested containers and dataclasses, in order."""
    if isinstance(value, Tensor):
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


def record(model: nn.Module, run: Callable[[], Any], inputs: Any, stand_ins: StandIns | None = None) -> Program:
    """Run a model once and record what it did.

    Args:
        model: Its parameters and floating buffers become the program's leaves.
        run: Calls the model on ``inputs`` and returns its outputs.
        inputs: What the model is called with; its tensors become the program's inputs.
        stand_ins: Spares the heavy operators; ``None`` to compute everything.

    Returns:
        The program; the model's tensors are left without any mark, and its parameters as they were.

    Raises:
        ValuesNeededError: If with stand-ins the model asked for a value that wasn't computed.
    """
    program = Program()
    stack = [""]
    recorder = Recorder(program, stack, stand_ins)
    named = named_tensors_of(model)
    try:
        for name, tensor in named:
            ref = recorder.mark(tensor, depends=tensor.is_floating_point())
            if tensor.is_floating_point():
                program.leaves[ref.id] = name
            else:
                program.constants[ref.id] = tensor
        for tensor in tensors_in(inputs):
            program.inputs.append(recorder.mark(tensor).id)
        with ExitStack() as modes:
            modes.enter_context(_following_calls(model, recorder, stack))
            modes.enter_context(torch.no_grad())
            watch = modes.enter_context(_Guard(recorder))
            modes.enter_context(recorder)
            outputs = run()
        if recorder.needs_values:
            raise ValuesNeededError
        program.borrowed += [Borrowed(*fact) for fact in watch.found]
        for tensor in tensors_in(outputs):
            ref_or_none = recorder.ref(tensor)
            if ref_or_none is not None:
                program.outputs.append(ref_or_none.id)
    finally:
        with torch.no_grad():
            for tensor, before in recorder.overwritten.values():
                tensor.copy_(before)
        for _, tensor in named:
            if hasattr(tensor, _MARK):
                delattr(tensor, _MARK)
                if not tensor.__dict__:
                    tensor.__dict__.clear()  # an emptied dict keeps its memory, on every tensor of the model
    return program


@contextmanager
def _following_calls(model: nn.Module, recorder: Recorder, stack: list[str]) -> Iterator[None]:
    """Keep the dotted name of the running module on top of ``stack``, and note each call that ends."""
    names = {module: name for name, module in named_modules_of(model)}

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(names.get(module, stack[-1]))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()
        if module in names:
            refs = (recorder.ref(tensor) for tensor in tensors_in(output))
            outputs = tuple(-1 if ref is None else ref.id for ref in refs)
            recorder.program.calls.append(Call(names[module], outputs, len(recorder.program.ops)))

    with following(enter, leave):
        yield
