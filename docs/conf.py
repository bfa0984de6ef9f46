"""Sphinx: `make docs` builds build/docs/index.html."""

from __future__ import annotations

import sys
from pathlib import Path

from openmae import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "OpenMAE"
author = "The OpenMAE developers"
copyright = author
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "commands"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_ext", "figures"]
html_theme = "furo"
html_title = f"OpenMAE {version}"
html_static_path: list[str] = []
html_copy_source = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports: list[str] = []
# Nothing is loaded from outside the pages.
html_theme_options = {"footer_icons": [], "source_repository": ""}
