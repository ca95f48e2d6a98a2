"""Tables of segmentation results: means and spreads over images and seeds, per group of images.

Notation: a setting is (framework, labels, size, loss); a run is one seed of it; each run measured
the same test images.  Images fall into groups: "indistr" is in distribution (ID), the others are
not (OOD).  Where no group is one of TopoMortar's there is "all", the mean over all images.

As published (TopoMortar, `results/compute_tables.py`):

* a group's mean and std (n - 1) run over its images x seeds; undefined values are left out;
* ID is the group "indistr"; OOD is the plain mean of the other groups' means, and of their stds.

Beside it stands what says how far a result can be trusted: the spread of the *seeds'* means, which
for the Betti errors is 8 to 20 times smaller than the published spread.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from geo3d.errors import FileFormatError, InputError
from geo3d.segmentation.measures import METRICS, VOLUME_METRICS, Measures, read_measures

ID_GROUP = "indistr"
ALL = "all"
OVERALL = ("ID", "OOD", ALL)
"""Splits that stand for a whole data set, or for a half of it."""
TOPOMORTAR_GROUPS = {
    "indistr": (1, 120),
    "angles": (121, 170),
    "colors": (171, 220),
    "graffiti": (221, 270),
    "objects": (271, 320),
    "shadows": (321, 370),
    "occlusion": (371, 420),
}
"""First and last image of each group of the TopoMortar data set."""
GROUPS_FILE = "groups.csv"


@dataclass(frozen=True, order=True)
class Setting:
    """What was trained."""

    framework: str
    labels: str
    size: str
    loss: str


@dataclass(frozen=True)
class Entry:
    """One number of a table, with its spreads."""

    setting: Setting
    split: str
    """"ID", "OOD" or the name of a group."""
    metric: str
    mean: float
    std: float
    """Published spread: over images x seeds; for OOD the mean of the groups' spreads."""
    n_seeds: int
    n_images: int = 0
    seed_std: float = float("nan")
    """Spread of the seeds' means (n - 1); NaN for a single seed."""
    seed_min: float = float("nan")
    seed_max: float = float("nan")


Runs = Mapping[Setting, Mapping[str, Measures]]
"""Setting to seed to metrics."""


def read_results(folder: str | os.PathLike[str]) -> dict[Setting, dict[str, Measures]]:
    """Read every ``<framework>/<labels>/<size>/<Loss>/<seed>.csv`` below a folder.

    Raises:
        InputError: "tables.no_results", "tables.unequal_images".
        FileFormatError: see `geo3d.segmentation.measures.read_measures`.
    """
    root = Path(folder)
    runs: dict[Setting, dict[str, Measures]] = {}
    for path in sorted(root.glob("*/*/*/*/*.csv"), key=_seed_order):
        setting = Setting(*path.relative_to(root).parts[:4])
        runs.setdefault(setting, {})[path.stem] = read_measures(path)
    if not runs:
        raise InputError(
            "tables.no_results",
            f"There are no results below {folder}.",
            "Results lie in FOLDER/<framework>/<labels>/<size>/<Loss>/<seed>.csv.",
        )
    for setting, seeds in runs.items():
        _check_images(setting, seeds)
    return runs


def read_groups(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the group of each image from a CSV with the columns ID and group.

    Raises:
        FileFormatError: "tables.bad_groups".
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return {row["ID"]: row["group"] for row in rows}
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise FileFormatError(
            "tables.bad_groups",
            f"{path} does not list the groups of images: {error}.",
            "A CSV with the columns ID and group, like the data set's dataset_types.txt.",
        ) from error


def topomortar_groups() -> dict[str, str]:
    """Return the group of each image of the TopoMortar data set."""
    return {
        f"{i:03d}": group
        for group, (first, last) in TOPOMORTAR_GROUPS.items()
        for i in range(first, last + 1)
    }


def groups_for(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return the groups that the results' folder names, else those of TopoMortar."""
    path = Path(folder) / GROUPS_FILE
    return read_groups(path) if path.is_file() else topomortar_groups()


def aggregate(runs: Runs, groups: Mapping[str, str]) -> list[Entry]:
    """Return ID, OOD and every group of every setting and metric.

    Raises:
        InputError: "tables.unknown_image" for an image without a group.
    """
    entries = []
    for setting, seeds in runs.items():
        members = group_members(next(iter(seeds.values())).ids, groups)
        for metric in metrics_of(seeds.values(), each_class=True):
            values = np.stack([m.columns[metric] for m in seeds.values()])
            entries += _entries(setting, metric, values, members)
    return entries


def group_members(
    ids: Sequence[str], groups: Mapping[str, str]
) -> dict[str, Float64[np.ndarray, " n"]]:
    """Return for "ID", "OOD" and each OOD group the weight of each image in its mean.

    Weights sum to one: 1/n in a group of n images; in "OOD" the groups count equally.  Without any
    of TopoMortar's groups the first is "all", where the images count equally, then the groups.

    Raises:
        InputError: "tables.unknown_image".
    """
    if unknown := [i for i in ids if i not in groups]:
        raise InputError(
            "tables.unknown_image",
            f"Image {unknown[0]} belongs to no group.",
            f"Put a {GROUPS_FILE} with the columns ID and group beside the results.",
        )
    names = [groups[i] for i in ids]
    present = sorted(set(names))
    weights = {g: np.array([n == g for n in names]) / names.count(g) for g in present}
    if not set(weights) & set(TOPOMORTAR_GROUPS):
        shown = {g: weights[g] for g in present if g != ALL and len(present) > 1}
        return {ALL: np.full(len(names), 1 / len(names)), **shown}
    out = [weights[g] for g in present if g != ID_GROUP]
    shown = {"ID": weights[ID_GROUP]} if ID_GROUP in weights else {}
    if out:
        shown |= {"OOD": np.mean(out, axis=0)}
    return shown | {g: weights[g] for g in present if g != ID_GROUP}


def metrics_of(measures: Iterable[Measures], *, each_class: bool = False) -> list[str]:
    """Return the metrics that all runs have, in the order of the tables; then those by class."""
    each = [m.columns if each_class else m.values for m in measures]
    common = set.intersection(*(set(columns) for columns in each))
    known = [m for m in (*METRICS, *VOLUME_METRICS) if m in common]
    return [*known, *(m for m in each[0] if m in common and m not in known)]


def read_published(path: str | os.PathLike[str]) -> list[Entry]:
    """Read a table of published numbers: framework,labels,size,loss,split,metric,mean,std,n_seeds.

    Raises:
        FileFormatError: "tables.bad_published".
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return [
                Entry(
                    Setting(row["framework"], row["labels"], row["size"], row["loss"]),
                    row["split"],
                    row["metric"],
                    float(row["mean"]),
                    float(row["std"]),
                    int(row["n_seeds"]),
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise FileFormatError(
            "tables.bad_published",
            f"{path} is not a table of published results: {error}.",
            "Columns: framework,labels,size,loss,split,metric,mean,std,n_seeds.",
        ) from error


def _entries(
    setting: Setting,
    metric: str,
    values: Float64[np.ndarray, "s n"],
    members: Mapping[str, Float64[np.ndarray, " n"]],
) -> list[Entry]:
    found = {}
    groups = [name for name in members if name not in OVERALL]
    for split in [*groups, *(s for s in OVERALL if s in members)]:
        if split == "OOD":
            mean = np.mean([found[g].mean for g in groups])
            std = np.mean([found[g].std for g in groups])
            seeds = np.mean([_seed_means(values, members[g]) for g in groups], axis=0)
        else:
            pooled = values[:, members[split] > 0].ravel()
            pooled = pooled[~np.isnan(pooled)]
            mean = pooled.mean() if len(pooled) else np.nan
            std = pooled.std(ddof=1) if len(pooled) > 1 else np.nan
            seeds = _seed_means(values, members[split])
        found[split] = Entry(
            setting,
            split,
            metric,
            float(mean),
            float(std),
            len(values),
            int(np.count_nonzero(members[split])),
            float(seeds.std(ddof=1)) if len(seeds) > 1 else float("nan"),
            float(seeds.min()),
            float(seeds.max()),
        )
    return [found[split] for split in members]


def _seed_means(
    values: Float64[np.ndarray, "s n"], weights: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " s"]:
    """Return each seed's mean over a group's images."""
    return mean_of_known(values[:, weights > 0], axis=1)


def mean_of_known(values: Float64[np.ndarray, "s n"], axis: int) -> Float64[np.ndarray, " m"]:
    """Return means without undefined values; NaN, without a warning, where there is no other."""
    known = ~np.isnan(values)
    counts = known.sum(axis=axis)
    sums = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _check_images(setting: Setting, seeds: Mapping[str, Measures]) -> None:
    first, *others = seeds.values()
    if any(other.ids != first.ids for other in others):
        raise InputError(
            "tables.unequal_images",
            f"The seeds of {setting.loss} ({setting.framework}, {setting.labels}, "
            f"{setting.size}) measured different images.",
            "Every run of a setting measures the same images in the same order.",
        )


def _seed_order(path: Path) -> tuple[str, int, str]:
    number = int(path.stem) if path.stem.isdigit() else -1
    return str(path.parent), number, path.stem
