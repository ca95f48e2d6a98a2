"""The lines of the page for people who come from pyFM run, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import bumpy_sphere, moved, permuted, rotation

from geo3d.mesh.io import save_mesh

PAGE = Path(__file__).resolve().parents[1] / "docs" / "from-pyfm.md"


def test_the_lines_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = bumpy_sphere(2)
    copy, order = permuted(moved(mesh, rotation(1)), seed=3)
    save_mesh(mesh, tmp_path / "a.off")
    save_mesh(copy, tmp_path / "b.off")
    rows = [f"{order[i]} {i}" for i in (3, 50, 90, 140)]
    (tmp_path / "marks.txt").write_text("\n".join(rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    for name in ("found", "again", "mapped", "refined"):
        assert np.mean(names[name].p2p_21 == order) > 0.98, name  # type: ignore[attr-defined]
    assert float(np.mean(names["p2p_21"].numpy() == order)) > 0.98  # type: ignore[attr-defined]
    assert np.allclose(names["stretched"].numpy(), 1.0, atol=0.05)  # type: ignore[attr-defined]
