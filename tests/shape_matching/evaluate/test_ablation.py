"""The ablation: every row measured on the same pairs, one table, resumable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluation_helpers import make_spheres

from shape_matching.evaluate import ablation
from shape_matching.evaluate.ablation import ROWS, format_ablation, run_ablation
from shape_matching.evaluate.config import EvaluationConfig
from shape_matching.evaluate.datasets import open_dataset
from shape_matching.evaluate.protocols import protocol_pairs
from shape_matching.methods import METHODS


def test_every_row_is_a_method() -> None:
    assert set(ROWS) <= set(METHODS)


@pytest.mark.slow
def test_rows_share_pairs_and_the_table_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "ROWS", {"nearest": "positions", "zoomout": "one start"})
    dataset = open_dataset(make_spheres(tmp_path / "data", 3))
    pairs = protocol_pairs(dataset, "all")[1]
    config = EvaluationConfig(data=str(dataset.root), worst=0, ablation=True)
    rows = run_ablation(dataset, pairs, config, tmp_path / "out")
    assert [row["method"] for row in rows] == ["nearest", "zoomout"]
    assert rows[0]["error"] == 0 and rows[0]["scored"] == 3
    # 42 vertices are too few for a map; the failures are counted, not hidden
    assert rows[1]["failed"] == 3 and rows[1]["error"] is None
    assert json.loads((tmp_path / "out" / "ablation.json").read_text()) == rows
    assert run_ablation(dataset, pairs, config, tmp_path / "out") == rows
    text = format_ablation(rows)
    assert "nearest" in text and "0.00" in text and "positions" in text
