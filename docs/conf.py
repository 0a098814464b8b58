"""Sphinx reads the pages from here; ``make docs`` builds them without a network."""

import re

from sphinx.application import Sphinx

from pyro_infomax import __version__

project = "pyro_infomax"
author = "the pyro_infomax authors"
copyright = author
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autosummary_generate = False
# Formulae in the docstrings of properties are taken for types, and their letters for the names of attributes.
suppress_warnings = ["ref.python"]
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Shapes read as they do in code, (M, *event); to reStructuredText a lone star would open an emphasis.
STAR_OF_A_SHAPE = re.compile(r"(?<=[(, ])\*(?=\w+[,)])")


def escape_shapes(
    _app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    lines[:] = ["``".join(escape_outside_literals(line.split("``"))) for line in lines]


def escape_outside_literals(parts: list[str]) -> list[str]:
    return [part if odd % 2 else STAR_OF_A_SHAPE.sub(r"\*", part) for odd, part in enumerate(parts)]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", escape_shapes)


html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
