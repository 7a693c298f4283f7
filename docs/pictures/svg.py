"""As much of SVG as the pictures need. The same calls give the same text, so that a test can compare."""

from __future__ import annotations

import colorsys
from xml.sax.saxutils import escape, quoteattr

__all__ = ["FAINT", "INK", "Svg", "colour"]

INK = "#1f2933"
FAINT = "#697580"
_DARK = 1.05 / 4.5 - 0.05  # the luminance on which white stands out 4.5 to one, as WCAG asks for
_FONT = "ui-sans-serif, system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"


def colour(number: int, count: int) -> str:
    """The ``number``-th of ``count`` colours: neighbours differ most, and white can be read on all of them."""
    order = [k for start in range(3) for k in range(start, count, 3)]
    hue = (order.index(number) / count + 0.57) % 1
    shades = (colorsys.hls_to_rgb(hue, lightness / 100, 0.6) for lightness in range(45, 0, -1))
    parts = next(shade for shade in shades if _luminance(shade) <= _DARK)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def _luminance(rgb: tuple[float, float, float]) -> float:
    """Relative luminance as WCAG defines it."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


class Svg:
    """A picture in the making.

    Args:
        title: What it shows, for those who can't see it.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, **style: object) -> None:
        """A rectangle; ``style`` holds SVG attributes, with underscores for hyphens."""
        self._add("rect", x=_n(x), y=_n(y), width=_n(width), height=_n(height), **style)

    def path(self, d: str, **style: object) -> None:
        """A line of any shape."""
        self._add("path", d=d, fill="none", **style)

    def arrow(self, points: list[tuple[float, float]]) -> None:
        """An arrow along points."""
        d = "M" + " L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        self.path(d, stroke=INK, stroke_width=1.2, marker_end="url(#head)")

    def text(self, x: float, y: float, content: str, size: int = 12, anchor: str = "start", **style: object) -> None:
        """A line of text with its baseline at ``y``."""
        attributes = _attributes(
            {"x": _n(x), "y": _n(y), "font-size": size, "text-anchor": anchor, "fill": INK, **style}
        )
        self._parts.append(f"<text{attributes}>{escape(content)}</text>")

    def _add(self, tag: str, **attributes: object) -> None:
        self._parts.append(f"<{tag}{_attributes(attributes)}/>")

    def render(self, width: float, height: float) -> str:
        """The file's text."""
        marker = (
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker></defs>'
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" role="img" '
                f'width="{_n(width)}" height="{_n(height)}" font-family="{_FONT}">',
                f"<title>{escape(self.title)}</title>",
                marker,
                '<rect width="100%" height="100%" rx="8" fill="white"/>',
                *self._parts,
                "</svg>\n",
            ]
        )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _attributes(given: dict[str, object]) -> str:
    return "".join(f" {key.replace('_', '-')}={quoteattr(str(value))}" for key, value in given.items())
