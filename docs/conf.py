"""The site: `make docs`. Nothing is fetched while it is built, and a page needs no other host to be read."""

import re
from importlib.util import find_spec
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import gradreg_core

project = "gradreg"
author = "the gradreg maintainers"
release = version = gradreg_core.__version__
html_title = "gradreg"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["inventories", "**/runs"]

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["gradreg.css"]
html_js_files = ["gradreg.js"]
html_show_copyright = False
html_show_sourcelink = False

smartquotes = False
default_role = "code"  # docstrings have their names in single backticks
toc_object_entries = False  # the headings say it

pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the tests run the notebooks, and their outputs are kept in the files
suppress_warnings = ["misc.highlighting_failure"]  # listings with "..." in them

napoleon_numpy_docstring = False
napoleon_use_rtype = False
autodoc_typehints = "none"  # the text says what an argument is; its annotation holds the checks of its values
autodoc_member_order = "bysource"
autodoc_mock_imports = [name for name in ("torch", "jax", "tensorflow", "keras") if find_spec(name) is None]

# The names that the pages use, as inventories of version 1, which are plain text: no network is needed.
intersphinx_mapping = {
    "torch": ("https://docs.pytorch.org/docs/stable/", "inventories/torch.inv"),
    "jax": ("https://docs.jax.dev/en/latest/", "inventories/jax.inv"),
    "tensorflow": ("https://www.tensorflow.org/api_docs/python/", "inventories/tensorflow.inv"),
}


def _named_anchors(app: Sphinx, document: str, source: list[str]) -> None:
    """Anchors that pages write as HTML, for GitHub, are targets here."""
    source[0] = re.sub(r'^<a id="([\w-]+)"></a>$', r"(\1)=", source[0], flags=re.M)


def _plain_docstrings(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: a star is a star, and an indented block after an empty line is code."""
    text = "\n".join(lines)
    text = re.sub(r"^(\S.*)(?<!::)\n\n(?= {4}\S)", r"\1\n\n::\n\n", text, flags=re.M)
    parts = re.split(r"(``.*?``|::\n\n(?: .*\n|\n)*)", text, flags=re.S)
    parts[::2] = [re.sub(r"([*|])", r"\\\1", part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def _inline_math(self: HTML5Translator, node: nodes.Node) -> None:
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block_math(self: HTML5Translator, node: nodes.Node) -> None:
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


class _Translator(HTML5Translator):
    """An empty cell of a table's head is not a heading: screen readers announce headings."""

    def visit_entry(self, node: nodes.Element) -> None:
        super().visit_entry(node)
        if not node.astext():
            self.body[-1] = self.body[-1].replace("<th", "<td", 1)
            self.context[-1] = "</td>\n"


def setup(app: Sphinx) -> dict[str, Any]:
    """Formulas are MathML, which browsers draw by themselves."""
    app.set_translator("html", _Translator)
    app.connect("source-read", _named_anchors)
    app.connect("autodoc-process-docstring", _plain_docstrings, priority=400)  # before Google's sections are processed
    app.add_html_math_renderer("mathml", inline_renderers=(_inline_math, None), block_renderers=(_block_math, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


html_math_renderer = "mathml"
