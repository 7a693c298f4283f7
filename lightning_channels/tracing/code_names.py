"""What the code of modules says: the names that it mentions, on a line, or as an argument of a call."""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import sys
import textwrap
from collections.abc import Collection, Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import nn

__all__ = ["argument_names", "functions_beside", "has_line", "methods_of", "names_in", "names_on_line"]

_NAMES: dict[type, frozenset[str]] = {}


def names_in(cls: type) -> frozenset[str]:
    """Every name that the methods of a module's class mention, but for those that only build or print it."""
    if cls not in _NAMES:
        _NAMES[cls] = frozenset(name for code in methods_of(cls) for name in code.co_names)
    return _NAMES[cls]


def methods_of(cls: type) -> list[CodeType]:
    """Code of the methods of a module's class, and of the functions inside them."""
    return [
        code
        for base in cls.__mro__
        if base not in (nn.Module, object)
        for name, member in vars(base).items()
        if name not in ("__init__", "__repr__", "extra_repr", "reset_parameters", "init_weights")
        for code in _codes(member)
    ]


def functions_beside(cls: type) -> Iterator[CodeType]:
    """Code of the functions beside a module's class; they are given its attributes as arguments of the same names."""
    for base in cls.__mro__:
        if base not in (nn.Module, object) and base.__module__ in sys.modules:
            for member in vars(sys.modules[base.__module__]).values():
                if isinstance(member, FunctionType) and member.__module__ == base.__module__:
                    yield from _codes(member)


def _codes(member: Any) -> Iterator[CodeType]:
    if isinstance(member, property):
        member = member.fget
    if isinstance(member, (staticmethod, classmethod)):
        member = member.__func__
    member = inspect.unwrap(member) if callable(member) else member
    if isinstance(member, FunctionType):
        yield from _nested(member.__code__)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def has_line(code: CodeType, line: str) -> bool:
    """Whether code has a line (``"net.py:42"``)."""
    file, _, number = line.rpartition(":")
    if not number.isdecimal() or not code.co_filename.endswith(file) or int(number) < code.co_firstlineno:
        return False
    return any(own == int(number) for _, _, own in code.co_lines())


_READS = {"LOAD_ATTR", "LOAD_METHOD", "LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_DEREF", "LOAD_NAME", "LOAD_GLOBAL"}


def names_on_line(code: CodeType, line: int) -> set[str]:
    """Attributes and variables that are read in the calls that begin on a line."""
    steps = [
        (step.positions.lineno or -1, step.positions.end_lineno or -1, step)
        for step in dis.get_instructions(code)
        if step.positions is not None
    ]
    last = max((end for begin, end, _ in steps if begin == line), default=-1)
    return {str(step.argval) for begin, _, step in steps if line <= begin <= last and step.opname in _READS}


def argument_names(code: CodeType, line: int, methods: Collection[str], count: int, position: int) -> set[str]:
    """Attributes and variables in one argument of a call: ``x.view(n, self.heads, self.size)``, 3, 1 gives ``heads``.

    Args:
        code: What has the line.
        line: Its number.
        methods: What may be called.
        count: How many sizes the call is given, as arguments or in a list.
        position: Which of them.
    """
    found: set[str] = set()
    for first, last, sizes in _calls(code, frozenset(methods)):
        if first <= line <= last and len(sizes) == count:
            nodes = list(ast.walk(sizes[position]))
            found |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
            found |= {node.id for node in nodes if isinstance(node, ast.Name)}
    return found


@functools.lru_cache(maxsize=256)
def _calls(code: CodeType, methods: frozenset[str]) -> list[tuple[int, int, list[ast.expr]]]:
    """(first line, last line, sizes) of the calls of some methods."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError, TypeError):  # typed into a console, or made by a program
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in methods:
            listed = next((argument for argument in node.args if isinstance(argument, (ast.List, ast.Tuple))), None)
            sizes = node.args if listed is None else listed.elts
            if not any(isinstance(size, ast.Starred) for size in sizes):
                start = code.co_firstlineno - 1
                found.append((start + node.lineno, start + (node.end_lineno or node.lineno), list(sizes)))
    return found
