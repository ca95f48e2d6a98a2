"""Per-image metrics of a segmentation run and the CSV files that hold them.

One file holds one run (one seed of one setting): a row per test image, the columns of the published
TopoMortar results (``ID,Betti0ErrorLocal_mortar,...``), then those that the published files lack.
So our files are read by published tools, and theirs by ours.  Of other data the columns end in the
names of their classes, and of several classes a metric is the mean over them.

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from geo3d.errors import FileFormatError, InputError
from geo3d.files import atomic_write_text
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.segmentation.predict import Prediction, Segmenter
from geo3d.segmentation.samples import Dataset, Item, Sample
from geo3d.synth.walls import GROUPS
from geo3d.topology.metric_table import METRICS as METRIC_TABLE
from geo3d.topology.metrics import MISSING
from geo3d.work.tables import csv_text

PUBLISHED_METRICS = ("Betti0", "Betti1", "Betti0Local", "Betti1Local", "Dice", "HD95", "clDice")
_PUBLISHED_COLUMNS = ("Betti0Local", "Betti0", "Betti1Local", "Betti1", "Dice", "HD95", "clDice")
"""The same in the order of the published files."""
_STEMS = {name: stem for metric in METRIC_TABLE.values() for name, stem in metric.columns.items()}
_IN_ORDER = (*_PUBLISHED_COLUMNS, *(name for name in _STEMS if name not in _PUBLISHED_COLUMNS))
VOLUME_METRICS = tuple(name for name in _IN_ORDER if name.endswith("2"))
"""What only volumes have."""
METRICS = tuple(
    name
    for name in (*PUBLISHED_METRICS, *_IN_ORDER[len(PUBLISHED_METRICS) :])
    if name not in VOLUME_METRICS
)
"""The metrics of an image in the order of the tables."""
HIGHER_IS_BETTER = frozenset(
    name for metric in METRIC_TABLE.values() if metric.higher_is_better for name in metric.columns
)
MORTAR = "mortar"
"""The class that the published columns name."""
COLUMNS = {name: f"{_STEMS[name]}_{MORTAR}" for name in _IN_ORDER if name not in VOLUME_METRICS}
"""Metric and its column, in the order of the published files, then ours."""
PUBLISHED_DIAGONAL = 722.663
"""What the published tables put for the HD95 of an empty prediction: the diagonal of 512 x 512."""


@dataclass(frozen=True)
class Measures:
    """The metrics of one run, image by image."""

    ids: tuple[str, ...]
    """Image names, in the order of the file."""
    values: Mapping[str, Float64[np.ndarray, " n"]]
    """Metric to one number per image; NaN where a metric is undefined."""
    classes: Mapping[str, Mapping[str, Float64[np.ndarray, " n"]]] = field(default_factory=dict)
    """The same for each class; empty where mortar is the only one."""

    @property
    def columns(self) -> dict[str, Float64[np.ndarray, " n"]]:
        """The metrics and, where there are several classes, "metric class" for each."""
        parts = self.classes.items() if len(self.classes) > 1 else ()
        return {
            **self.values,
            **{f"{metric} {name}": v for name, part in parts for metric, v in part.items()},
        }


def measure_image(
    predicted: Bool[np.ndarray, "*space"], true: Bool[np.ndarray, "*space"], *, compat: bool = False
) -> dict[str, float]:
    """Return every metric of one mask of an image or volume.

    Args:
        predicted: the predicted mask.
        true: the label.
        compat: the published code's numbers for empty masks, see `geo3d.topology.metrics`.

    Raises:
        ShapeError: "topology.unequal_shapes".
        InputError: "topology.empty_truth" with ``compat``.
    """
    found: dict[str, float] = {}
    for metric in METRIC_TABLE.values():
        if metric.columns:
            settings: dict[str, Any] = {"compat": compat} if metric.has_compat else {}
            numbers = metric.numbers(predicted, true, **settings)
            found |= zip(metric.columns, numbers, strict=False)
    return found


def measure_sample(
    prediction: Prediction, sample: Sample, *, compat: bool = False
) -> dict[str, dict[str, float]]:
    """Return every metric of every class or region of an image; ignored pixels are empty in both.

    Raises:
        ShapeError, InputError: see `measure_image`.
    """
    true, counts, found = prediction.kind.masks(sample.mask), sample.counts, {}
    for name, mask in prediction.masks.items():
        pair = (mask, true[name]) if counts is None else (mask & counts, true[name] & counts)
        found[name] = measure_image(*pair, compat=compat)
    return found


Row = Mapping[str, float] | Mapping[str, Mapping[str, float]]
"""The metrics of mortar (`measure_image`), or those of each class (`measure_sample`)."""


def gather(rows: Sequence[tuple[str, Row]]) -> Measures:
    """Return the metrics of a run from pairs of an image's name and its metrics."""
    named: list[tuple[str, Mapping[str, Any]]] = [
        (name, row if isinstance(next(iter(row.values())), Mapping) else {MORTAR: row})
        for name, row in rows
    ]
    first = named[0][1]
    classes = {
        name: {m: np.array([row[name][m] for _, row in named], np.float64) for m in first[name]}
        for name in first
    }
    return _measures(tuple(name for name, _ in named), classes)


def _measures(
    ids: tuple[str, ...], classes: Mapping[str, Mapping[str, Float64[np.ndarray, " n"]]]
) -> Measures:
    values = {
        metric: np.array(
            [_mean(each) for each in zip(*(p[metric] for p in classes.values()), strict=True)]
        )
        for metric in next(iter(classes.values()))
    }
    return Measures(ids, values, {} if list(classes) == [MORTAR] else classes)


def write_measures(measures: Measures, path: str | os.PathLike[str]) -> Path:
    """Write a run's CSV atomically: a file that is there is complete."""
    header, columns = ["ID"], []
    for label, values in (measures.classes or {MORTAR: measures.values}).items():
        for name in (name for name in _IN_ORDER if name in values):
            header.append(_stem(name) + label)
            columns.append(values[name])
    rows = [[image, *(_text(c[i]) for c in columns)] for i, image in enumerate(measures.ids)]
    return atomic_write_text(path, csv_text(header, rows))


def _stem(metric: str) -> str:
    return f"{_STEMS[metric]}_"


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
    dice_column = _stem("Dice")
    named = list(rows[0]) if rows else []
    labels = [name.removeprefix(dice_column) for name in named if name.startswith(dice_column)]
    labels = labels or [MORTAR]
    required = {"ID", *(_stem(name) + label for name in PUBLISHED_METRICS for label in labels)}
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
    classes = {}
    for label in labels:
        present = [
            name for name in _IN_ORDER if all(_stem(name) + each in header for each in labels)
        ]
        values = {name: _column(rows, _stem(name) + label, path) for name in present}
        values["HD95"] = np.where(values["HD95"] >= MISSING, PUBLISHED_DIAGONAL, values["HD95"])
        classes[label] = values
    return _measures(ids, classes)


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


def check_kind(segmenter: Segmenter, dataset: Dataset) -> None:
    """Refuse to measure a segmenter on a set with other classes (code "segmenter.other_kind").

    Of a single class the name does not matter: a mask is a mask.
    """
    mine, other = segmenter.kind, dataset.kind
    both_single = mine.is_binary and other.is_binary
    is_same = both_single or (mine.classes, mine.regions) == (other.classes, other.regions)
    if not is_same or (mine.dimensions, mine.channels) != (other.dimensions, other.channels):
        raise InputError(
            "segmenter.other_kind",
            f"The segmenter finds {', '.join(mine.foreground)} in {mine.dimensions}D images of "
            f"{mine.channels} channels; {dataset.name} has {', '.join(other.foreground)} in "
            f"{other.dimensions}D ones of {other.channels}.",
            "Measure it on images like those it was trained on.",
        )


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
        rows.append((item.id, measure_sample(segmenter.predict(sample.image), sample)))
    report(progress, "measuring", len(items), len(items))
    measures = gather(rows)
    return group_means(measures, [item.group for item in items]), measures


def group_means(measures: Measures, groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the mean of each metric in each group, then of "ID" and "OOD"; NaN counts nowhere.

    Where no group is one of walls, the mean over all images is "all".

    Args:
        measures: metrics by image.
        groups: the group of each image, in the same order.
    """
    known = [group for group in GROUPS if group in groups]
    present = [*known, *sorted(set(groups) - set(known))]
    columns = measures.columns
    means = {
        group: {
            metric: _mean(values[np.array(groups) == group]) for metric, values in columns.items()
        }
        for group in present
    }
    if not known:
        return {**means, "all": {metric: _mean(values) for metric, values in columns.items()}}
    shifted = [means[group] for group in present if group != GROUPS[0]]
    if GROUPS[0] in means:
        means["ID"] = means[GROUPS[0]]
    if shifted:
        means["OOD"] = {m: _mean(np.array([row[m] for row in shifted])) for m in columns}
    return means


def _mean(numbers: Iterable[float]) -> float:
    values = np.array(list(numbers), np.float64)
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
