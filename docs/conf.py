"""Configuration of the documentation: `sphinx-build -W -b html docs docs/_build/html`, without network."""

import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

from sphinx.ext.napoleon import NumpyDocstring

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

# of sphinx-autodoc-typehints, once per function
warnings.filterwarnings("ignore", message=".*set_application", category=DeprecationWarning)

project = "hpvade"
author = "The hpvade developers"
copyright = f"%Y, {author}"
release = version = version(project)

extensions = [
    "mathml",  # of _ext, as is measured
    "measured",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",  # after napoleon
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints", "jupyter_execute"]

# notebooks are executed by the tests; the pages show their stored outputs
nb_execution_mode = "off"
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "literal"  # `name` in docstrings
autosummary_generate = True
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
typehints_document_rtype = False
always_use_bars_union = True

# other projects' object lists need the network, which a local build must not
intersphinx_mapping = (
    {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }
    if "READTHEDOCS" in os.environ
    else {}
)

html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"hpvade {release}"
# the empty list removes a second search field
html_theme_options = {"navbar_persistent": [], "show_toc_level": 2}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def returns_as_prose(self, section):
    """The text below "Returns" is prose with lists, which napoleon would read as names and types."""
    lines = [line for line in self._dedent(self._consume_to_next_section()) if line.strip() != ":"]
    return [*self._format_block(":returns: ", lines), ""]


NumpyDocstring._parse_returns_section = returns_as_prose


def cite_as_literal(app, what, name, obj, options, lines):
    """Inherited docstrings of scvi-tools cite by keys of its own bibliography: show the keys as they are."""
    lines[:] = [line.replace(":cite:p:`", "`") for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", cite_as_literal)
