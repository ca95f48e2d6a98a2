"""The documentation site: `make docs` reads the pages, the README of every room and the docstrings.

The source folder is the top of the checkout, so that links mean the same here and in a checkout;
what cannot be resolved ends the build.  Docstrings are written for readers of code; three habits
of theirs are translated for docutils: indented lines are code, bars and stars mean themselves.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import geo3d  # noqa: E402

project, author, version = "geo3d", "the geo3d authors", geo3d.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/reference/*.rst",
    "assets/*.md",
    "assets/*/README.md",
    "geo3d/*/README.md",
    "scenes/*/README.md",
    "shape_matching/README.md",
]
default_role = "py:obj"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"
autodoc_mock_imports = ["accelerate", "diffusers", "nibabel", "nnunetv2", "transformers"]
napoleon_numpy_docstring = False
myst_enable_extensions = ["fieldlist"]
myst_heading_anchors = 4
# A README that links to a folder, or to a file of code, means the checkout.
suppress_warnings = ["myst.header"]
html_theme = "alabaster"
html_theme_options = {
    "description": "A 3D and geometry distillation workbench",
    "fixed_sidebar": True,
    "page_width": "1100px",
    "show_powered_by": False,
}
html_show_sphinx = False

LITERAL = re.compile(r"(``.+?``|`[^`]+`)")
SECTION = re.compile(r"[A-Z]\w+:")
ITEM = re.compile(r"([*-]|\d+\.) ")


def plain(line: str) -> str:
    """Return a line whose bars, stars and trailing underscores outside of code mean themselves."""
    bullet = re.match(r" *[*] |", line)[0]
    parts = LITERAL.split(line[len(bullet) :])
    # The \\w before _ is a name like x_; between letters an underscore is harmless.
    outside = [re.sub(r"([|*])|(?<=\w)(_)(?!\w)", r"\\\1\2", part) for part in parts[::2]]
    parts[::2] = outside
    return bullet + "".join(parts)


def translate(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Change the lines of a docstring in place, before its sections are read."""
    result: list[str] = []
    code, section, item = False, False, False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line and indent == 0:
            section = bool(SECTION.fullmatch(line))
            item = bool(ITEM.match(line))
            result += [""] * (code and bool(result[-1]))
            code = False
        elif indent >= 2 and not (code or section or item):
            result += [*[""] * (bool(result) and bool(result[-1])), "::", ""]
            code = True
        result.append(line if code else plain(line))
    lines[:] = result


def setup(app: Any) -> None:
    """Connect the translation, before napoleon's."""
    app.connect("autodoc-process-docstring", translate, priority=100)
