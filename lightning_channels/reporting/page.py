"""The page: one file with its style, its script and its data inside, which loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

__all__ = ["write_page"]

_SCRIPTS = ("dom.js", "format.js", "tip.js", "table.js", "graph.js", "front.js", "tables.js", "main.js")

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript>This report needs JavaScript; all of it is in this file, and nothing is loaded.</noscript>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def write_page(title: str, data: Mapping[str, Any]) -> str:
    """The page's text.

    Its script makes everything that is seen from the data, as text and never as HTML. Its policy lets run and style
    nothing but what the page was made with, and load nothing at all, whatever a name in the data may hold.

    Args:
        title: As the browser shows it.
        data: What JSON can hold.
    """
    style, script = _asset("style.css"), "".join(map(_asset, _SCRIPTS))
    policy = f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    return _PAGE.format(policy=policy, title=html.escape(title), style=style, data=_embedded(data), script=script)


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON in which no character could end the element that it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
