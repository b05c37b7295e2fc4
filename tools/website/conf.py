"""Sphinx's settings. The sources are staged by `website.build`; nothing here reaches the network, and neither does a page."""

from __future__ import annotations

import vestige

project, author, copyright = "Vestige", "The Vestige authors", "The Vestige authors"  # noqa: A001
version = release = vestige.__version__

extensions = ["myst_parser", "sphinx.ext.viewcode", "website.linking"]
source_suffix = {".md": "markdown"}
smartquotes = False  # "auto" is a value, and stays what one would type
highlight_language = "none"
pygments_style, pygments_dark_style = "tango", "github-dark"
python_maximum_signature_line_length = 72
toc_object_entries = False
add_module_names = False

myst_heading_anchors = 4
myst_enable_extensions: list[str] = []
viewcode_line_numbers = True

html_theme = "furo"
html_title = "Vestige"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_last_updated_fmt = None
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
