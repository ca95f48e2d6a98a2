"""Per-image metrics of a segmentation run and the CSV files that hold them.

One file holds one run (one seed of one setting): a row per test image, the columns of the published
TopoMortar results (``ID,Betti0ErrorLocal_mortar,...``), then the Betti matching errors,
which the published files lack.  So our files are read by published tools, and theirs by ours.

An empty prediction has no HD95.  The published files hold `MISSING` there, and the published tables
put `PUBLISHED_DIAGONAL` in its place; that is done here when a file is read.

One segmenter on the test images of a set: every metric, in distribution and by kind of shift.

In distribution (ID) is the group "indistr"; out of distribution (OOD) is the plain mean over the
other groups that are there, as in the published tables.  The two are never mixed.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from geo3d.errors import FileFormatError, InputError
from geo3d.files import atomic_write_text
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.segmentation.data import Item
from geo3d.segmentation.predict import Segmenter
from geo3d.synth.walls import GROUPS
from geo3d.topology.metrics import (
    MISSING,
    betti_errors,
    betti_matching_errors,
    cl_dice,
    dice,
    hausdorff_95,
    local_betti_errors,
)
from geo3d.work.tables import csv_text

COLUMNS = {
    "Betti0Local": "Betti0ErrorLocal_mortar",
    "Betti0": "Betti0Error_mortar",
    "Betti1Local": "Betti1ErrorLocal_mortar",
    "Betti1": "Betti1Error_mortar",
    "Dice": "Dice_mortar",
    "HD95": "HD95_mortar",
    "clDice": "clDice_mortar",
    "BettiMatching0": "BettiMatching0Error_mortar",
    "BettiMatching1": "BettiMatching1Error_mortar",
}
"""Metric and its column, in the order of the published files, then ours."""
PUBLISHED_METRICS = ("Betti0", "Betti1", "Betti0Local", "Betti1Local", "Dice", "HD95", "clDice")
METRICS = (*PUBLISHED_METRICS, "BettiMatching0", "BettiMatching1")
"""The metrics in the order of the tables."""
HIGHER_IS_BETTER = frozenset({"Dice", "clDice"})
PUBLISHED_DIAGONAL = 722.663
"""What the published tables put for the HD95 of an empty prediction: the diagonal of 512 x 512."""


@dataclass(frozen=True)
class Measures:
    """The metrics of one run, image by image."""

    ids: tuple[str, ...]
    """Image names, in the order of the file."""
    values: Mapping[str, Float64[np.ndarray, " n"]]
    """Metric to one number per image; NaN where a metric is undefined."""


def measure_image(
    predicted: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"], *, compat: bool = False
) -> dict[str, float]:
    """Return every metric of one image.

    Args:
        predicted: the predicted mask.
        true: the label.
        compat: the published code's numbers for empty masks, see `geo3d.topology.metrics`.

    Raises:
        ShapeError: "topology.unequal_shapes".
        InputError: "topology.empty_truth" with ``compat``.
    """
    betti = betti_errors(predicted, true, compat=compat)
    local = local_betti_errors(predicted, true, compat=compat)
    unmatched = betti_matching_errors(predicted, true)
    return {
        "Betti0": float(betti[0]),
        "Betti1": float(betti[1]),
        "Betti0Local": local[0],
        "Betti1Local": local[1],
        "Dice": dice(predicted, true),
        "HD95": hausdorff_95(predicted, true, compat=compat),
        "clDice": cl_dice(predicted, true, compat=compat),
        "BettiMatching0": float(unmatched[0]),
        "BettiMatching1": float(unmatched[1]),
    }


def gather(rows: Sequence[tuple[str, Mapping[str, float]]]) -> Measures:
    """Return the metrics of a run from (image name, metrics) pairs."""
    values = {name: np.array([row[name] for _, row in rows], np.float64) for name in METRICS}
    return Measures(tuple(name for name, _ in rows), values)


def write_measures(measures: Measures, path: str | os.PathLike[str]) -> Path:
    """Write a run's CSV atomically: a file that is there is complete."""
    names = [name for name in COLUMNS if name in measures.values]
    rows = [
        [image, *(_text(measures.values[name][i]) for name in names)]
        for i, image in enumerate(measures.ids)
    ]
    return atomic_write_text(path, csv_text(["ID", *(COLUMNS[name] for name in names)], rows))


def read_measures(path: str | os.PathLike[str]) -> Measures:
    """Read a run's CSV, ours or a published one.

    Image names that are plain numbers get their leading zeros back ("71" is image "071").

    Raises:
        FileFormatError: "tables.bad_csv", "tables.no_column", "tables.repeated_image".
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError("tables.bad_csv", f"{path} cannot be read: {error}.") from error
    header = set(rows[0]) if rows else set()
    required = {"ID", *(COLUMNS[name] for name in PUBLISHED_METRICS)}
    if missing := sorted(required - header):
        raise FileFormatError(
            "tables.no_column",
            f"{path} has no column {', '.join(missing)}." if rows else f"{path} has no rows.",
            f"Columns of a file of per-image results: ID, {', '.join(COLUMNS.values())}.",
        )
    ids = tuple(_image_name(row["ID"]) for row in rows)
    if len(set(ids)) != len(ids):
        raise FileFormatError(
            "tables.repeated_image", f"{path} lists an image twice.", "Keep one row per image."
        )
    present = [name for name, column in COLUMNS.items() if column in header]
    values = {name: _column(rows, COLUMNS[name], path) for name in present}
    values["HD95"] = np.where(values["HD95"] >= MISSING, PUBLISHED_DIAGONAL, values["HD95"])
    return Measures(ids, values)


def _column(
    rows: Sequence[Mapping[str, str]], column: str, path: str | os.PathLike[str]
) -> Float64[np.ndarray, " n"]:
    try:
        # pandas writes an undefined value as an empty field.
        texts = ("nan" if row[column] == "" else row[column] for row in rows)
        return np.array([float(text) for text in texts], np.float64)
    except (TypeError, ValueError) as error:
        raise FileFormatError(
            "tables.bad_csv", f"{path}, column {column}: {error}.", "Every field is a number."
        ) from error


def _image_name(text: str) -> str:
    return text.zfill(3) if text.isdigit() else text


def _text(value: float) -> str:
    # repr is the shortest text that reads back to the same number.
    return "" if math.isnan(value) else repr(float(value))


Means = Mapping[str, Mapping[str, float]]
"""Group, "ID" or "OOD", to metric, to mean."""


def evaluate_segmenter(
    segmenter: Segmenter, items: Sequence[Item], progress: ProgressCallback = ignore_progress
) -> tuple[Means, Measures]:
    """Return the means and the metrics of every image.

    Args:
        segmenter: the model.
        items: test images.
        progress: receives an event per image; may raise `Cancelled`.

    Raises:
        InputError: ``segmenter.no_images``; errors of reading the images.
    """
    if not items:
        raise InputError("segmenter.no_images", "There are no images to measure.", "")
    rows = []
    for done, item in enumerate(items):
        report(progress, "measuring", done, len(items))
        sample = item.load()
        rows.append((item.id, measure_image(segmenter.predict(sample.image).mask, sample.mask)))
    report(progress, "measuring", len(items), len(items))
    measures = gather(rows)
    return group_means(measures, [item.group for item in items]), measures


def group_means(measures: Measures, groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the mean of each metric in each group, then of "ID" and "OOD"; NaN counts nowhere.

    Args:
        measures: metrics by image.
        groups: the group of each image, in the same order.
    """
    present = [group for group in GROUPS if group in groups]
    means = {
        group: {
            metric: _mean(values[np.array(groups) == group])
            for metric, values in measures.values.items()
        }
        for group in present
    }
    shifted = [means[group] for group in present if group != GROUPS[0]]
    if GROUPS[0] in means:
        means["ID"] = means[GROUPS[0]]
    if shifted:
        names = measures.values
        means["OOD"] = {m: _mean(np.array([row[m] for row in shifted])) for m in names}
    return means


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
