"""One segmenter on the test pictures of a set: every metric, in distribution and by kind of shift.

In distribution (ID) is the group "indistr"; out of distribution (OOD) is the plain mean over the
other groups that are there, as in the published tables.  The two are never mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from geo3d.errors import InputError
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.segmentation.data import Item
from geo3d.segmentation.measures import Measures, gather, measure_image
from geo3d.segmentation.predict import Segmenter
from geo3d.synth.walls import GROUPS

Means = Mapping[str, Mapping[str, float]]
"""Group, "ID" or "OOD", to metric, to mean."""


def evaluate_segmenter(
    segmenter: Segmenter, items: Sequence[Item], progress: ProgressCallback = ignore_progress
) -> tuple[Means, Measures]:
    """Return the means and the metrics of every picture.

    Args:
        segmenter: the model.
        items: test pictures.
        progress: receives an event per picture; may raise `Cancelled`.

    Raises:
        InputError: ``segmenter.no_pictures``; errors of reading the pictures.
    """
    if not items:
        raise InputError("segmenter.no_pictures", "There are no pictures to measure.", "")
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
        measures: metrics by picture.
        groups: the group of each picture, in the same order.
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
