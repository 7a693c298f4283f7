"""A directive for the API reference: everything that the package exports from one of its modules.

``.. exports:: callbacks`` stands for an entry for each name that ``lightning_channels/__init__.py`` lists for
``callbacks``, so that the reference can't miss one.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import lightning_channels
from lightning_channels.registry import Registry


class Exports(SphinxDirective):
    """Documents the exported names of a module; with ``:brief:`` in one line each."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"brief": lambda _: True}

    def run(self) -> list[nodes.Node]:
        """Expand into autodoc's directives."""
        module = self.arguments[0]
        names = lightning_channels._MODULES.get(module)
        if names is None:
            raise self.error(f"nothing is exported from {module!r}; known: {', '.join(lightning_channels._MODULES)}")
        lines: list[str] = []
        for name in names:
            lines += self._entry(name, getattr(lightning_channels, name))
        parsed: list[nodes.Node] = self.parse_text_to_nodes(StringList(lines, source=module))
        return parsed

    def _entry(self, name: str, value: Any) -> list[str]:
        qualified = f"lightning_channels.{name}"
        if inspect.isclass(value) and value.__name__ != name:
            return [f".. autoclass:: {qualified}", "   :no-members:", ""]
        if inspect.isclass(value):
            members = [] if "brief" in self.options else ["   :members:"]
            bases = [] if value.__bases__ == (object,) else ["   :show-inheritance:"]
            if _is_only_ours(value) and not hasattr(lightning_channels, value.__base__.__name__):
                bases = ["   :inherited-members:"] if members else []  # the base is documented nowhere else
            return [f".. autoclass:: {qualified}", *members, *bases, ""]
        if callable(value):
            return [f".. autofunction:: {qualified}", ""]
        described = [f"   {line}" for line in _what_it_is(value)]
        return [f".. py:data:: {name}", "   :module: lightning_channels", "", *described, ""]


def _is_only_ours(cls: type) -> bool:
    """Whether a class has a base, and each of its bases is of this package."""
    bases = cls.__mro__[1:-1]
    return bool(bases) and all(base.__module__.startswith("lightning_channels.") for base in bases)


def _what_it_is(value: Any) -> list[str]:
    """What an object is that is neither class nor function; its class says what it can do."""
    if isinstance(value, Registry):
        return [f"The :class:`~lightning_channels.registry.Registry` of {value.kind} types."]
    return inspect.cleandoc(value.__doc__ or "").splitlines()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("exports", Exports)
    return {"parallel_read_safe": True}
