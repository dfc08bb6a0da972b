"""How the site is built: ``make docs``, without network; a warning is an error."""

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "eqprop"
author = "The eqprop developers"
copyright = "The eqprop developers, MIT licence"
version = release = installed("eqprop")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "generated",
]
exclude_patterns = ["_build", "_generated", "jupyter_execute"]
nitpicky = True
# Of what others document no index is at hand without network.
nitpick_ignore_regex = [("py:.*", r"(?!eqprop\.).*")]

html_theme = "furo"
html_static_path = ["_static"]
# The example of the explorer, a page of its own.
html_extra_path = ["_generated/extra"]
Path(__file__).with_name("_generated").joinpath("extra").mkdir(parents=True, exist_ok=True)
html_css_files = ["site.css"]
html_title = f"eqprop {release}"

# Formulas are written between dollars; headings may be linked to.
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

# Whatever a page shows was computed when it was built; what did not change is not run again.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_in_temp = True
nb_execution_show_tb = True
nb_merge_streams = True
# Bars are for those who wait; without them no script of widgets need be fetched from elsewhere.
nb_ipywidgets_js = {}
os.environ["TQDM_DISABLE"] = "1"
# The commands that pages run are those of this environment.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
