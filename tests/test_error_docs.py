"""Every error code that the sources raise is explained in docs/errors.md, and nothing else is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TREES = ("geo3d", "shape_matching", "scenes", "apps")
DOCUMENTED = set(re.findall(r'<a id="([^"]+)"></a>', (ROOT / "docs/errors.md").read_text("utf-8")))
CODE = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
ERRORS = re.compile(r"(Error|Unavailable|Geo3dError)$")


def raised_codes() -> dict[str, str]:
    """Return the codes given literally to an error's constructor, with the place."""
    found = {}
    for tree in TREES:
        for path in sorted((ROOT / tree).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and node.args and ERRORS.search(name_of(node.func)):
                    first = node.args[0]
                    if isinstance(first, ast.Constant) and isinstance(first.value, str):
                        found[first.value] = f"{path.relative_to(ROOT)}:{node.lineno}"
    return {code: place for code, place in found.items() if CODE.fullmatch(code)}


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def test_every_raised_code_is_documented() -> None:
    raised = raised_codes()
    assert len(raised) > 30
    lost = {code: place for code, place in raised.items() if code not in DOCUMENTED}
    assert not lost, "\n".join(f"{place} raises {code}" for code, place in sorted(lost.items()))


def test_every_documented_code_is_in_the_sources() -> None:
    sources = "\n".join(p.read_text("utf-8") for t in TREES for p in (ROOT / t).rglob("*.py"))
    stale = {code for code in DOCUMENTED if code not in sources}
    # Codes that are put together ("mesh_file.too_many_" + what) are found by their parts.
    stale = {code for code in stale if code.rpartition("_")[0] not in sources}
    assert not stale
