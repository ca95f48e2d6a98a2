"""Pairs of pieces know their truth, and what is measured of a map is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.bench import partial
from geo3d.mesh.ops import total_area
from shape_matching.config import MatchConfig
from shape_matching.correspondence import Correspondence


@pytest.fixture(scope="module")
def pair() -> partial.PiecePair:
    return partial.piece_pair("biped", "both", 1)


def answer(pair: partial.PiecePair, **masks: Any) -> Correspondence:
    ends = np.zeros(pair.source.n_vertices, np.int64), np.ones(pair.target.n_vertices)
    return Correspondence(pair.source, pair.target, pair.truth, ends[0], None, ends[1], **masks)


def test_the_truth_has_no_error(pair: partial.PiecePair) -> None:
    masks = {"overlap_1": pair.overlap_1, "overlap_2": pair.overlap_2}
    found = partial.measured(pair, answer(pair, **masks))
    assert found["error_x100"] == 0 and found["iou_1"] == found["iou_2"] == 1
    assert 0.3 < pair.overlap_2.mean() < 1 and 0.3 < pair.overlap_1.mean() < 1


def test_no_mask_claims_everything(pair: partial.PiecePair) -> None:
    found = partial.measured(pair, answer(pair))
    assert found["iou_2"] == pytest.approx(pair.overlap_2.mean(), abs=0.1)
    assert total_area(pair.source) > 0


def test_finished_pairs_are_not_matched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = dict.fromkeys(("error_x100", "iou_1", "iou_2", "ambiguous", "cpu_s"), 1.0)
    made = []

    def row(kind: str, cut: str, seed: int, config: MatchConfig) -> dict[str, Any]:
        made.append(seed)
        return {"kind": kind, "cut": cut, "seed": seed, **numbers}

    monkeypatch.setattr(partial, "_row", row)
    (tmp_path / "901.json").write_text(json.dumps(row("bird", "scan", 901, MatchConfig())))
    rows = partial.bench_test(tmp_path, MatchConfig())
    assert made.count(901) == 1 and len(rows) == 24 + 7
    assert partial.bench_test(tmp_path, MatchConfig()) == rows and len(made) == 24
