"""The nodes that autograd made in one forward pass, in the order in which it made them."""

from __future__ import annotations

import heapq
import itertools
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels._modules import named_modules_of
from lightning_channels.tracing.borrowing import SizeWatch
from lightning_channels.tracing.following import following
from lightning_channels.tracing.recorder import tensors_in
from lightning_channels.tracing.source_lines import line_in

__all__ = ["Edge", "Journal", "edge_of", "in_order", "is_leaf", "line_of_node", "next_number", "number_of", "shapes_of"]

Edge = tuple[Any, int]
"""A node, and which of the results of its operator."""

_FRAME = re.compile(r'\s*File "(.*)", line (\d+)')


class Journal:
    """Which module was running when a node was made.

    Autograd numbers the nodes that a thread makes. The number that comes next is noted wherever a module begins or
    ends, so a node's number tells whose it is.

    Args:
        model: Its modules are named.

    Attributes:
        calls: (module, the nodes of what it returned, number of the next node) of each call that ended.
        sizes: What was shaped by the size of something else, by their nodes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in named_modules_of(model)}
        self._stack = [""]
        self._numbers = [-1]
        self._running = [""]
        self.calls: list[tuple[str, list[Edge | None], int]] = []
        self.sizes = SizeWatch(edge_of)

    def _note(self) -> None:
        self._numbers.append(next_number())
        self._running.append(self._stack[-1])

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._stack.append(self._names.get(module, self._stack[-1]))
        self._note()

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._stack.pop()
        self._note()
        if module in self._names:
            edges = [edge_of(tensor) for tensor in tensors_in(output)]
            self.calls.append((self._names[module], edges, self._numbers[-1]))

    @contextmanager
    def open(self) -> Iterator[None]:
        """Write down what happens inside the block."""
        with following(self._enter, self._leave), self.sizes:
            yield

    def module_of(self, node: Any) -> str:
        """Dotted name of the innermost module that was running."""
        return self._running[bisect_right(self._numbers, number_of(node)) - 1]


_UNNUMBERED = 2**64 - 1


def number_of(node: Any) -> int:
    """The number of a node; for one without, such as an operator's that has no derivative, that of what it reads."""
    number: int = node._sequence_nr()
    if number != _UNNUMBERED:
        return number
    return max((number_of(source) for source, _ in node.next_functions if source is not None), default=-1)


def next_number() -> int:
    """The number that the next node of this thread gets."""
    return torch._C._autograd._get_sequence_nr()


def edge_of(tensor: Tensor) -> Edge | None:
    """Where a tensor comes from; ``None`` without a history."""
    if not tensor.requires_grad:
        return None
    return torch.autograd.graph.get_gradient_edge(tensor)[:2]


def shapes_of(node: Any) -> list[torch.Size]:
    """Shapes of the results of a node's operator that have a gradient."""
    return [torch.Size(data.shape) for data in node._input_metadata]


def line_of_node(node: Any) -> str:
    """The user's code that called a node's operator, ``"net.py:42"``; anomaly mode must have been on."""
    for text in reversed(node.metadata.get("traceback_", [])):
        found = _FRAME.match(text)
        line = found and line_in(found[1], int(found[2]))
        if line is not None:
            return line
    return ""


def is_leaf(node: Any) -> bool:
    """Whether a node stands for a tensor that no operator made."""
    return type(node).__name__ == "AccumulateGrad"


def in_order(ends: Iterable[Any]) -> list[Any]:
    """The nodes of operators that some nodes depend on, and these: older ones first, and none before what it reads."""
    users: dict[Any, list[Any]] = {}
    missing: dict[Any, int] = {}
    waiting = [node for node in ends if not is_leaf(node)]
    while waiting:
        node = waiting.pop()
        if node in missing:
            continue
        sources = {source for source, _ in node.next_functions if source is not None and not is_leaf(source)}
        missing[node] = len(sources)
        for source in sources:
            users.setdefault(source, []).append(node)
            waiting.append(source)
    ticket = itertools.count()  # nodes can't be compared
    ready = [(number_of(node), next(ticket), node) for node in missing if not missing[node]]
    heapq.heapify(ready)
    found = []
    while ready:
        node = heapq.heappop(ready)[2]
        found.append(node)
        for user in users.get(node, ()):
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, (number_of(user), next(ticket), user))
    return found
