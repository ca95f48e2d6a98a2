"""The notebooks of the documentation run from top to bottom, in an empty folder.

Their cells are run as one program: they use nothing of Jupyter's, so nothing of it is installed.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def program(path: Path) -> str:
    cells = [c for c in read(path)["cells"] if c["cell_type"] == "code"]
    return "\n\n".join("".join(cell["source"]) for cell in cells) + "\n"


def test_there_are_five() -> None:
    page = (ROOT / "docs" / "notebooks.md").read_text("utf-8")
    names = {path.stem for path in NOTEBOOKS}
    assert names == {"matching", "topology", "streets", "objects", "distillation"}
    assert all(f"(notebooks/{name}.ipynb)" in page for name in names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_one_without_results(path: Path) -> None:
    found = read(path)
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    assert {c["cell_type"] for c in found["cells"]} == {"markdown", "code"}
    assert len({c["id"] for c in found["cells"]}) == len(found["cells"])
    code = [c for c in found["cells"] if c["cell_type"] == "code"]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in code)
    tree = ast.parse(program(path))
    imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), str(path), "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    (tmp_path / "cells.py").write_text(program(path), "utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
