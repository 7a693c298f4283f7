"""Two things that autodoc doesn't know about our docstrings.

Types stand in the annotations, so what comes before the first colon of a property's docstring or of a ``Returns:``
section is text. And a reference such as ``:meth:`Walk.passes``` may name an object by its last parts alone.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def keep_colons(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Say to napoleon, which comes next, that there is no type before the first colon."""
    if what in ("property", "attribute", "data") and lines:
        lines.insert(0, "")
    for number, line in enumerate(lines[:-1]):
        if line.strip() in ("Returns:", "Yields:"):
            text = lines[number + 1]
            content = text.lstrip()
            lines[number + 1] = f"{text[: len(text) - len(content)]}: {content}"


def find_by_last_parts(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node
) -> nodes.Node | None:
    """Resolve a reference to the one documented object whose name ends like it."""
    if node.get("refdomain") != "py" or "reftarget" not in node:
        return None
    domain: Any = env.get_domain("py")
    end = f".{node['reftarget']}"
    named = {name: (entry.docname, entry.node_id) for name, entry in domain.objects.items() if name.endswith(end)}
    if len(set(named.values())) != 1:
        return None
    found: nodes.Node | None = domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], next(iter(named)), node, content
    )
    return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect both."""
    app.connect("autodoc-process-docstring", keep_colons, priority=100)
    app.connect("missing-reference", find_by_last_parts)
    return {"parallel_read_safe": True}
