"""Golden cases of reading images, of RandHue and of the learning rate."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.cases_topology import DATA

from geo3d.config import load_config
from geo3d.segmentation.augment import random_hue
from geo3d.segmentation.config import SegmentationConfig, learning_rate
from geo3d.segmentation.images import read_image
from geo3d.segmentation.predict import channel_statistics, normalise


def check_randhue(path: Path) -> None:
    """Compare four images, drawn from the global generator as published."""
    case = np.load(path)
    for row in json.loads(path.with_suffix(".json").read_text("utf-8")):
        given = torch.from_numpy(case[f"in_{row['k']}"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(row["torch_seed"])
            found = random_hue(given, compat=True)
        atol = 2e-5 * float(given.max() - given.min())
        np.testing.assert_allclose(found.numpy(), case[f"out_{row['k']}"], rtol=0, atol=atol)


def check_preprocess(path: Path) -> None:
    """Compare means, deviations and normalised values of real images."""
    if not DATA.is_dir():
        pytest.skip("the images are not here")
    for name, row in json.loads(path.read_text("utf-8")).items():
        found = next(DATA.glob(f"*/images/{name}.png"))
        pixels = read_image(found).pixels
        mean, deviation = channel_statistics(pixels)
        np.testing.assert_allclose(mean, row["raw_mean"], rtol=1e-6)
        np.testing.assert_allclose(deviation, row["raw_std_population"], rtol=1e-6)
        # The published loader transposes: its axis 1 is x, its axis 2 is y.
        assert row["loader_array_equals_png_transposed"]
        for key in (key for key in row if key.startswith("normalized_at_")):
            x, y = map(int, re.findall(r"axis\d_(\d+)", key))
            np.testing.assert_allclose(normalise(pixels)[:, y, x], row[key], atol=1e-6)


def check_learning_rates(path: Path) -> None:
    """Compare the learning rate of iterations counted from 1."""
    case = json.loads(path.read_text("utf-8"))
    plain = load_config(SegmentationConfig, preset="paper")
    for iteration, rate in case["supervised"].items():
        assert learning_rate(plain, int(iteration) - 1) == pytest.approx(rate, rel=1e-12)
    given = ["framework=selfdistillation", "compat=true"]
    distilled = load_config(SegmentationConfig, preset="paper", overrides=given)
    for iteration, rate in case["selfdistillation_gen1"].items():
        assert learning_rate(distilled, int(iteration) - 1) == pytest.approx(rate, rel=1e-12)
    for step in (4000, 7999, 8000, 11_999):
        assert learning_rate(distilled, step) == case["selfdistillation_gen2_and_3_constant"]
