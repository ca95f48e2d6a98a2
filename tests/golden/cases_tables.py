"""Golden cases of the tables: the published results, recomputed from the per-image files."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from geo3d.segmentation.measures import PUBLISHED_METRICS
from geo3d.segmentation.tables import (
    TOPOMORTAR_GROUPS,
    aggregate,
    read_published,
    read_results,
    topomortar_groups,
)

ROUNDING = 1.1e-5
"""The files have five decimals."""


def read_rows(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    split = "group" if "group" in rows[0] else "split"
    names = ("framework", "labels", "size", "loss", split, "metric")
    return {tuple(row[name] for name in names): row for row in rows}


def check_published(path: Path) -> None:
    """Compare with the per-image files where they are here, else with the table by group."""
    published = {
        (
            e.setting.framework,
            e.setting.labels,
            e.setting.size,
            e.setting.loss,
            e.split,
            e.metric,
        ): (e.mean, e.std)
        for e in read_published(path)
    }
    assert {key[-1] for key in published} == set(PUBLISHED_METRICS)
    by_group = read_rows(path.with_name("reference_results_by_group.csv"))
    others = sorted(set(TOPOMORTAR_GROUPS) - {"indistr"})
    for (*setting, split, metric), numbers in published.items():
        groups = ["indistr"] if split == "ID" else others
        rows = [by_group[(*setting, group, metric)] for group in groups]
        for name, number in zip(("mean", "std"), numbers, strict=True):
            found = np.mean([float(row[name]) for row in rows])
            assert found == pytest.approx(number, abs=ROUNDING), (setting, split, metric)
    results = path.with_name("results")
    if results.is_dir():
        check_per_image(results, published)


def check_per_image(folder: Path, published: dict[tuple[str, ...], tuple[float, float]]) -> None:
    """Recompute the tables from the published per-image files, to two decimals."""
    found = {
        (
            e.setting.framework,
            e.setting.labels,
            e.setting.size,
            e.setting.loss,
            e.split,
            e.metric,
        ): (e.mean, e.std)
        for e in aggregate(read_results(folder), topomortar_groups())
    }
    for key in set(found) & set(published):
        assert found[key] == pytest.approx(published[key], abs=0.005), key


def check_by_seed(path: Path) -> None:
    """Compare the means of the seeds with the pooled ones; they differ where values are missing."""
    published = read_rows(path.with_name("reference_results.csv"))
    rows = read_rows(path)
    assert set(rows) == set(published)
    for key, row in rows.items():
        low, mean, high = (float(row[n]) for n in ("min_seed", "mean_over_seeds", "max_seed"))
        assert low - ROUNDING <= mean <= high + ROUNDING, key
        spread = float(row["std_over_seeds"])
        n = int(row["n_seeds"])
        # n seeds between low and high: the spread (n - 1) cannot be larger or smaller than this.
        assert spread <= (high - low) / 2 * math.sqrt(n / (n - 1)) + ROUNDING, key
        assert spread >= (high - low) / math.sqrt(2 * (n - 1)) - ROUNDING, key
        slack = 0.01 if key[-1] == "clDice" else ROUNDING
        assert mean == pytest.approx(float(published[key]["mean"]), abs=slack), key


def check_by_group(path: Path) -> None:
    """Check that every setting, group and metric is there; the numbers are read with the table."""
    settings = {key[:4] for key in read_rows(path)}
    wanted = {(*s, g, m) for s in settings for g in TOPOMORTAR_GROUPS for m in PUBLISHED_METRICS}
    assert set(read_rows(path)) == wanted
