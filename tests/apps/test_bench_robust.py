"""The bench of defects: each changes the file as it says, and finished cells are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from helpers import bumpy_sphere

from apps.bench import robust
from apps.bench.robust import DEFECTS, RobustConfig, bench_robust
from geo3d.config import load_config
from geo3d.mesh.connectivity import edge_sides, vertex_components
from shape_matching.config import MatchConfig
from shape_matching.search.sound import sound

BODY = bumpy_sphere(2)


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_keep_the_shape(name: str) -> None:
    for change in DEFECTS[name]:
        found = change(BODY, np.random.default_rng(0))
        assert (found.origin[found.place] == np.arange(162)).all()
        assert (found.mesh.vertices[found.place] == BODY.vertices).all()
        part = sound(found.mesh).parts[0].mesh
        assert part.n_vertices == 162


def test_defects_are_what_their_names_say() -> None:
    rng = np.random.default_rng(0)
    specks = robust.specks(BODY, rng).mesh
    assert vertex_components(specks.faces, specks.n_vertices)[0] == 6
    charts = robust.charts(BODY, rng).mesh
    assert vertex_components(charts.faces, charts.n_vertices)[0] >= 20
    assert (edge_sides(charts.faces, charts.n_vertices).count == 1).any()
    unused = robust.unused(BODY, rng).mesh
    assert np.setdiff1d(np.arange(163), unused.faces).tolist() == [0]
    assert robust.outliers(BODY, rng).mesh.n_vertices == 170


def test_cells_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: DEFECTS[name] for name in ("clean", "five specks")}
    monkeypatch.setattr(robust, "DEFECTS", kept)
    quick = replace(load_config(MatchConfig, preset="fast"), k_final=40, starts=("wks",))
    config = RobustConfig(creatures=1, creature_vertices=800, match=quick)
    rows = bench_robust(tmp_path, config)
    assert [row["defect"] for row in rows] == ["clean", "five specks"]
    assert rows[1]["worse_by"] == 0.0 and rows[0]["pairs"] == 1
    cells = sorted(path.name for path in tmp_path.glob("*-*.json"))
    assert cells == ["biped0-clean.json", "biped0-five_specks.json"]
    assert json.loads((tmp_path / cells[1]).read_text())["notes"]
    monkeypatch.setattr(robust, "match", Mock(side_effect=AssertionError))
    assert bench_robust(tmp_path, config) == rows
