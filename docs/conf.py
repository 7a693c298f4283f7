"""Sphinx's configuration: ``make docs`` builds the site into ``build/docs``, and any warning fails it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

import lightning_channels  # noqa: E402 - found through the path above in a checkout that isn't installed

project = "lightning-channels"
author = "The lightning-channels authors"
version = release = lightning_channels.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docstrings", "exports"]
exclude_patterns = ["build"]
root_doc = "index"

# pages are Markdown; headings can be linked to as page.md#heading
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# the API reference: what the docstrings say, with types from the annotations
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
toc_object_entries_show_parents = "hide"

# Every reference that a docstring or page makes on purpose must lead somewhere. Types in annotations are references to
# classes too, and may be another project's or not public: these are plain text.
nitpicky = True
nitpick_ignore_regex = [
    ("py:(class|obj|data)", r"(?!lightning_channels\.\w+$).*"),
    ("py:exc", "MisconfigurationException"),
]

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = "lightning-channels"
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": [], "quickstart": [], "concepts": [], "coming_from": []}
html_copy_source = html_show_sourcelink = False
copyright = "the lightning-channels authors, Apache-2.0"
