"""Where the code of a running module may have read a number: attributes of its own, inside it and around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

from torch import Tensor, nn

from lightning_channels._modules import named_modules_of
from lightning_channels.dynamic_ops.attributes import attribute_sizes, sides_without_tensors, split_key
from lightning_channels.dynamic_ops.spec import spec_of
from lightning_channels.tracing.code_names import (
    argument_names,
    functions_beside,
    has_line,
    methods_of,
    names_in,
    names_on_line,
)
from lightning_channels.tracing.may_count import is_open
from lightning_channels.tracing.program import Op

__all__ = ["Place", "Scope", "Use"]


@dataclass(slots=True)
class Use:
    """A number that stood at a labelled dim: ``value`` indices, and the labels of each, shape (value, n).

    Where it stood in a list of numbers that an operator was given, ``among`` is the list and ``entry`` the place.
    ``line`` is that of the code, and ``calls`` are the methods that it may have called.
    """

    module: str
    value: int
    labels: Tensor
    line: str
    among: tuple[int, ...] = ()
    entry: int | None = None
    calls: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """An attribute: the module that has it, its key, and how far away from the reader that is (0: its own)."""

    module: str
    key: str
    level: int


class Scope:
    """Integer attributes by the module in whose forward they may be read."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(named_modules_of(model))
        sizes = {name: attribute_sizes(module) for name, module in self._modules.items()}
        self._own = {name: own if own and is_open(self._modules[name]) else {} for name, own in sizes.items()}
        self._with_sizes = [name for name, own in self._own.items() if own]
        self._in_table = {
            name: frozenset(sides_without_tensors(self._modules[name]) if own else ())
            for name, own in self._own.items()
        }
        self._in_reach: dict[str, dict[int, list[Place]]] = {}
        self._readers: dict[tuple[str, str], str] = {}
        self.has_any = bool(self._with_sizes)

    def is_bare_norm(self, module: str) -> bool:
        """Whether a module is in the table of dynamic ops, and has none of its tensors."""
        return bool(self._in_table.get(module))

    def reader(self, op: Op) -> str:
        """The module whose code called an operator: one inside the running one, if that called its method."""
        key = op.module, op.line
        if key not in self._readers:
            self._readers[key] = self._find_reader(op.module, op.line)
        return self._readers[key]

    def _find_reader(self, name: str, line: str) -> str:
        inside = f"{name}." if name else ""
        inner = [other for other in self._with_sizes if other != name and other.startswith(inside)]
        cls = type(self._modules.get(name))
        if not inner or any(has_line(code, line) for code in (*methods_of(cls), *functions_beside(cls))):
            return name
        found = [o for o in inner if any(has_line(code, line) for code in methods_of(type(self._modules[o])))]
        return found[0] if len(found) == 1 else name

    def values(self, module: str) -> dict[int, list[Place]]:
        """Number → the attributes that have it.

        The module's own come first; those of the modules inside it, and then those around it, only where none of its
        own has the number. Only names that the reading code mentions count.
        """
        if module not in self._in_reach:
            self._in_reach[module] = self._collect(module)
        return self._in_reach[module]

    def attributes(self, use: Use) -> list[Place]:
        """The attributes that a number may have come from."""
        found = self.values(use.module).get(use.value, [])
        if any(place.level > 1 for place in found):  # passed on by a module around this one, if it is mentioned here
            names = self._names_around(use)
            found = [place for place in found if place.level < 2 or split_key(place.key)[0] in names]
        if use.entry is not None:
            found = [place for place in found if self._is_entry(place, use)] or found
        if len(found) > 1:  # a window as wide as there are heads: what the very line mentions counts
            for names in (self._names_of_argument(use), self._names_on(use)):
                mentioned = [place for place in found if split_key(place.key)[0] in names]
                if mentioned:
                    return mentioned
        return found

    def _codes_at(self, use: Use) -> list[CodeType]:
        cls = type(self._modules[use.module])
        return [code for code in (*methods_of(cls), *functions_beside(cls)) if has_line(code, use.line)]

    def _names_of_argument(self, use: Use) -> set[str]:
        number = int(use.line.rpartition(":")[2] or 0)
        if use.entry is None:
            return set()
        arguments = (use.calls, len(use.among), use.entry)
        return set().union(*(argument_names(code, number, *arguments) for code in self._codes_at(use)))

    def _names_on(self, use: Use) -> set[str]:
        number = use.line.rpartition(":")[2]
        return set().union(*(names_on_line(code, int(number)) for code in self._codes_at(use)))

    def _names_around(self, use: Use) -> set[str]:
        return set().union(*((*code.co_names, *code.co_varnames) for code in self._codes_at(use)))

    def _is_entry(self, place: Place, use: Use) -> bool:
        """Whether an attribute is the list that a number stood in, and the number's place."""
        name, entry = split_key(place.key)
        return (
            entry is not None and entry == use.entry and tuple(self._modules[place.module].__dict__[name]) == use.among
        )

    def _collect(self, name: str) -> dict[int, list[Place]]:
        if name not in self._modules or (spec_of(self._modules[name]) is not None and not self._own[name]):
            return {}  # what a convolution does with its sizes is in the table
        found: dict[int, list[Place]] = {}
        for distance, readers in enumerate(self._levels(name)):
            level: dict[int, list[Place]] = {}
            for reader, owner in readers:
                names = names_in(type(self._modules[reader])) | self._in_table[owner]
                for key, value in self._own[owner].items():
                    if value not in found and split_key(key)[0] in names:
                        level.setdefault(value, []).append(Place(owner, key, distance))
            found |= level
        return found

    def _levels(self, name: str) -> Iterator[list[tuple[str, str]]]:
        """(module whose code reads, module that owns), from the nearest to the farthest."""
        yield [(name, name)]
        if spec_of(self._modules[name]) is not None:
            return
        inside = f"{name}." if name else ""
        yield [(name, other) for other in self._with_sizes if other != name and other.startswith(inside)]
        while name:
            name = name.rpartition(".")[0]
            yield [(name, name)]
