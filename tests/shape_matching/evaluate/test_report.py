"""Tables and figures of an evaluation, from made-up pair records."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import grid
from PIL import Image

from shape_matching.evaluate.datasets import Dataset, ShapeFile
from shape_matching.evaluate.figures import plot_curve, spread_errors
from shape_matching.evaluate.metrics import THRESHOLDS, THRESHOLDS_ULRSSM
from shape_matching.evaluate.pairs import PairRecord
from shape_matching.evaluate.report import (
    family_labels,
    format_summary,
    per_pair_csv,
    published_errors,
    summarize,
    timing_summary,
    timings_csv,
    worst_records,
)


def scored(index: int, pair: tuple[str, str], error: float, hits: int, **more: Any) -> PairRecord:
    score = {
        "error": error,
        "median_error": error,
        "max_error": error,
        "error_best_side": None,
        "error_best_map": None,
        "coverage": 0.5,
        "smoothness": 2.0,
        "bijectivity": None,
        "orientation": 0.9,
        "ambiguous": False,
        "entries": 10,
        "pck": [hits] * len(THRESHOLDS),
        "pck_ulrssm": [hits] * len(THRESHOLDS_ULRSSM),
        **more,
    }
    return PairRecord(index, pair, score, None, {"match": 1.0, "match_cpu": 2.0, "score": 0.5})


def failed(index: int, pair: tuple[str, str]) -> PairRecord:
    error = {"code": "work.timeout", "message": 'took "long", really', "hint": ""}
    return PairRecord(index, pair, None, error, {})


def dataset() -> Dataset:
    names = ("cat0", "cat1", "dog0", "dog1")
    files = tuple(ShapeFile(name, name[:3], Path(f"{name}.npz")) for name in names)
    return Dataset(Path("pets"), files, True)


RECORDS = [
    scored(0, ("cat0", "cat1"), 1.0, 8),
    scored(1, ("dog0", "dog1"), 4.0, 2, ambiguous=True),
    scored(2, ("cat0", "dog1"), 4.0, 5, entries=20),
    failed(3, ("cat1", "cat0")),
]


def summary() -> dict[str, Any]:
    return summarize(RECORDS, family_labels(dataset(), RECORDS))


def test_summary_by_hand() -> None:
    found = summary()
    assert (found["pairs"], found["scored"], found["failed"]) == (4, 3, 1)
    assert found["error"] == pytest.approx(3.0) and found["median_error"] == 4.0
    assert found["failures"] == {"work.timeout": 1} and found["ambiguous"] == 1
    # entries count, not pairs: 15 hits of 40
    assert found["pck"]["fractions"] == pytest.approx([15 / 40] * len(THRESHOLDS))
    assert found["auc_0.25"] == pytest.approx(15 / 40) == found["auc_0.10"]
    assert found["coverage"] == 0.5 and found["bijectivity"] is None
    families = found["families"]
    assert list(families) == ["cat", "cat-dog", "dog"]
    assert families["cat"] == {
        "pairs": 2,
        "error": 1.0,
        "median_error": 1.0,
        "max_error": 1.0,
        "failed": 1,
    }


def test_worst_come_first_and_ties_keep_their_order() -> None:
    assert [r.index for r in worst_records(RECORDS[:3], 2)] == [1, 2]
    assert summary()["worst"][0] == ["dog0", "dog1", 4.0]


def test_csv_has_a_line_per_pair_and_survives_quotes() -> None:
    lines = list(csv.DictReader(per_pair_csv(RECORDS, dataset()).splitlines()))
    assert len(lines) == 4 and lines[0]["error"] == "1.000000" and lines[0]["bijectivity"] == ""
    assert lines[3]["status"] == "failed" and lines[3]["message"] == 'took "long", really'
    assert lines[2]["family"] == "cat-dog"
    times = list(csv.DictReader(timings_csv(RECORDS).splitlines()))
    assert times[0]["match_cpu_s"] == "2.000" and times[3]["match_s"] == ""
    assert timing_summary(RECORDS)["match_seconds_per_pair"] == 1.0
    assert timing_summary(RECORDS[3:])["match_seconds_per_pair"] is None


def test_text_names_the_numbers_and_marks_published_ones() -> None:
    rows = [{"method": "ZoomOut", "error": 6.1, "kind": "axiomatic", "source": "a table"}]
    head = {"method": "mine", "dataset": "pets", "protocol": "all", "geodesics": "heat"}
    text = format_summary({**summary(), **head, "published": rows}, timing_summary(RECORDS))
    assert "3.000" in text and "1 x work.timeout" in text and "cat-dog" in text
    assert "not measured here" in text.split("ZoomOut")[0] and "1.00 matching" in text
    nothing = {**summarize(RECORDS[3:], ["cat"]), **head, "published": []}
    assert "failed 1" in format_summary(nothing)


def test_published_faust_rows_are_those_of_the_literature() -> None:
    rows = {row["method"]: row["error"] for row in published_errors("faust_r")}
    assert (rows["BCICP"], rows["ZoomOut"], rows["Smooth Shells"]) == (6.1, 6.1, 2.5)
    assert published_errors("custom") == []


def test_curve_image_is_repeatable(tmp_path: Path) -> None:
    head = {"dataset": "pets", "protocol": "all"}
    for name in ("a.png", "b.png"):
        plot_curve(tmp_path / name, {**summary(), **head}, "mine")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert pixels.std() > 5


def test_errors_spread_to_the_nearest_vertex_with_ground_truth() -> None:
    mesh = grid(3)
    # vertex 0 has two entries, vertex 8 one; the rest takes the nearer one's mean
    values = spread_errors(mesh, np.array([0, 0, 8]), np.array([0.1, 0.3, 0.9]))
    assert values[0] == pytest.approx(0.2) and values[1] == pytest.approx(0.2)
    assert values[8] == values[7] == pytest.approx(0.9)
