"""Means over groups of images."""

from __future__ import annotations

import math

import numpy as np
import pytest

from geo3d.errors import InputError
from geo3d.segmentation.measures import Measures, evaluate_segmenter, group_means
from geo3d.segmentation.predict import load_segmenter


def test_groups_count_alike_out_of_distribution_and_nan_nowhere() -> None:
    values = np.array([1.0, 3.0, 10.0, np.nan, 20.0, 40.0])
    groups = ["indistr", "indistr", "angles", "angles", "colors", "colors"]
    means = group_means(Measures(tuple("abcdef"), {"Dice": values}), groups)
    assert {group: row["Dice"] for group, row in means.items()} == {
        "indistr": 2.0,
        "angles": 10.0,
        "colors": 30.0,
        "ID": 2.0,
        "OOD": 20.0,
    }


def test_what_is_not_there_is_not_averaged() -> None:
    nothing = Measures(("a",), {"Dice": np.array([np.nan])})
    means = group_means(nothing, ["shadows"])
    assert set(means) == {"shadows", "OOD"}
    assert math.isnan(means["OOD"]["Dice"])


def test_no_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"segmenter\.no_images"):
        evaluate_segmenter(load_segmenter(device="cpu"), ())
