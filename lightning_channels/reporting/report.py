"""Reports to look at: what a model is made of, what it costs before and after, and what a search found."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_channels._files import replacing
from lightning_channels.errors import ConfigError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.reporting.facts import gather
from lightning_channels.reporting.found import gather_search
from lightning_channels.reporting.page import write_page
from lightning_channels.search import SearchResult

__all__ = ["render_report", "save_report"]


def render_report(mutator: ChannelMutator, *, search: SearchResult | None = None, title: str | None = None) -> str:
    """A prepared model as one HTML page.

    It shows the units as a graph with their widths, what each module costs at full width and now, what each unit saves,
    why what can't change can't, and a search's candidates. It works offline: nothing is loaded.

    Args:
        mutator: A prepared mutator. Its current choices are what the page calls "now"; nothing is set.
        search: What :func:`lightning_channels.search_subnets` found on this model.
        title: The page's heading; the model's class by default.

    Returns:
        The page's text.

    Raises:
        PrepareError: If no model is prepared.
        ConfigError: If the search is one of another model, or the title isn't a text.
    """
    if title is not None and not isinstance(title, str):
        raise ConfigError(f"the title of a report must be a string, got {title!r}")
    data = gather(mutator)
    data["title"] = title or f"{data['model']}: channels"
    data["search"] = None if search is None else gather_search(mutator, search)
    return write_page(data["title"], data)


def save_report(
    mutator: ChannelMutator,
    path: str | os.PathLike[str],
    *,
    search: SearchResult | None = None,
    title: str | None = None,
) -> Path:
    """Write :func:`render_report`'s page to a file, whole or not at all.

    Args:
        mutator: As there.
        path: An ``.html`` file; its folder is made if there is none.
        search: As there.
        title: As there.

    Returns:
        The path written.

    Raises:
        PrepareError: If no model is prepared.
        ConfigError: If the path has another ending, or as :func:`render_report` says.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"a report is a page; {str(path)!r} must end in .html")
    page = render_report(mutator, search=search, title=title)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
