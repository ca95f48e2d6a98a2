"""Golden cases of Betti numbers, skeletons, distance maps and metrics."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import region_wise_map
from geo3d.topology.metrics import (
    betti_errors,
    cl_dice,
    dice,
    hausdorff_95,
    local_betti_errors,
)
from geo3d.topology.skeleton import soft_skeleton, thin, tube

DATA = (
    Path(os.environ.get("GEO3D_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    / "topomortar"
)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
    return np.unpackbits(packed, axis=-1)[..., :width].astype(bool)


def check_betti_masks(path: Path) -> None:
    """Compare both readings of pixels on small masks."""
    case = np.load(path)
    for row in read_rows(path.with_suffix(".csv")):
        name = row["mask"]
        width = int(case[f"{name}__shape"][-1]) if f"{name}__shape" in case else int(row["w"])
        mask, seen = unpack(case[name], width), 0
        for suffix, reading in (("", "cells"), ("_vertices", "vertices")):
            found = betti_numbers(mask, reading, empty_is_one=True)
            for k, number in enumerate(found):
                if told := row.get(f"betti{k}{suffix}"):
                    assert number == int(told), (name, reading, k)
                    seen += 1
        assert seen


def rounds_of(case: np.lib.npyio.NpzFile, prefix: str) -> list[int]:
    """Return the rounds that a case has maps for."""
    found = [int(key.removeprefix(prefix)) for key in case.files if key.startswith(prefix)]
    assert found, f"no {prefix}"
    return found


def check_skeletons(path: Path) -> None:
    """Compare soft skeletons, tubes and thinned masks of real labels and of a volume."""
    case = np.load(path)
    for name in (key.removeprefix("label_") for key in case.files if key.startswith("label_")):
        # Widths are whole bytes: a mask's last byte is full.
        label = unpack(case[f"label_{name}"], 8 * case[f"label_{name}"].shape[-1])
        soft = torch.from_numpy(label.astype(np.float32))[None, None]
        for rounds in rounds_of(case, f"softskel_{name}_it"):
            found = soft_skeleton(soft, rounds)[0, 0].numpy()
            assert set(np.unique(found)) <= {0, 1}
            expected = case[f"softskel_{name}_it{rounds}"]
            packed = np.packbits(found.astype(bool), axis=-1)
            if expected.shape != packed.shape:
                # Packed twice when the case was written: which bytes hold a pixel.
                packed = np.packbits(packed, axis=-1)
            assert np.array_equal(packed, expected), (name, rounds)
        assert np.array_equal(tube(label), unpack(case[f"tube_{name}"], label.shape[-1]))
        for rounds in rounds_of(case, f"cbskel_{name}_it"):
            expected = unpack(case[f"cbskel_{name}_it{rounds}"], label.shape[-1])
            assert np.array_equal(thin(label, rounds), expected), rounds
    volume = torch.from_numpy(case["vol_in"])
    for rounds in rounds_of(case, "vol_softskel_it"):
        expected = case[f"vol_softskel_it{rounds}"]
        np.testing.assert_array_equal(soft_skeleton(volume, rounds).numpy(), expected)


def check_loss_maps(path: Path) -> None:
    """Compare the maps that losses are built from: region-wise, skeletons, tubes."""
    case = np.load(path)
    logits = torch.from_numpy(case["logits"])
    width = logits.shape[-1]
    labels = unpack(case["label"], width)[:, 0]
    foreground = torch.softmax(logits, 1)[:, 1:]
    target = torch.from_numpy(labels[:, None].astype(np.float32))
    for rounds in rounds_of(case, "softskel_pred_it"):
        found = soft_skeleton(foreground, rounds)[:, 0].numpy()
        np.testing.assert_allclose(found, case[f"softskel_pred_it{rounds}"], atol=1e-6)
    for rounds in rounds_of(case, "softskel_true_it"):
        found = soft_skeleton(target, rounds)[:, 0].numpy()
        np.testing.assert_array_equal(found, case[f"softskel_true_it{rounds}"])
    for item, label in enumerate(labels):
        rw = np.stack([region_wise_map(~label), region_wise_map(label)])
        np.testing.assert_allclose(rw, case["rwmap"][item], atol=1e-6)
        predicted = (foreground[item, 0] > 0.5).numpy()
        for mask, key in ((predicted, "cb_skel_pred"), (label, "cb_skel_true")):
            assert np.array_equal(thin(mask), unpack(case[key], width)[item]), key
        assert np.array_equal(tube(label), unpack(case["tubed_skeleton"], width)[item])


def check_metrics_of_labels(path: Path) -> None:
    """Compare the metrics of label kinds; every fifteenth row (the slow test takes the others)."""
    if not DATA.is_dir():
        pytest.skip("the images are not here")
    for row in read_rows(path)[::15]:
        check_row(row)


def check_row(row: dict[str, str]) -> None:
    """Compare one row; the published loader transposes images."""
    one, two = (
        np.asarray(Image.open(DATA / row["split"] / row[kind] / f"{row['id']}.png")).T == 255
        for kind in ("pred", "true")
    )
    for k, number in enumerate(betti_numbers(one)):
        assert number == int(row[f"betti{k}_pred"])
    compare_metrics(row, one, two)


def compare_metrics(row: dict[str, str], one: np.ndarray, two: np.ndarray) -> None:
    """Compare all metrics of one pair with a row of numbers; an empty field is NaN."""
    assert dice(one, two) == pytest.approx(float(row["dice"]), abs=1e-7)
    # Where the single pixel of that case lies is not recorded, and its distances depend on it.
    if row.get("case") != "one_pixel_pred":
        assert hausdorff_95(one, two, compat=True) == pytest.approx(float(row["hd95"]), abs=1e-6)
    expected = float(row["cldice"] or "nan")
    assert cl_dice(one, two, compat=True) == pytest.approx(expected, abs=1e-7, nan_ok=True)
    found = betti_errors(one, two, compat=True)
    local = local_betti_errors(one, two, compat=True)
    for k in (0, 1):
        assert found[k] == int(row[f"betti{k}_error"])
        assert local[k] == pytest.approx(float(row[f"betti{k}_error_local"]), abs=1e-12)


def check_edge_cases(path: Path) -> None:
    """Compare the metrics of extreme predictions of a lattice of lines two pixels wide."""
    rows = read_rows(path)
    # The lattice is told by its holes: one fewer a side than there are lines.
    lines = math.isqrt(int(rows[0]["betti1_true"])) + 1
    true = np.zeros((512, 512), dtype=bool)
    for start in range(0, 512, 512 // lines):
        true[start : start + 2] = True
        true[:, start : start + 2] = True
    for row in rows:
        compare_metrics(row, extreme_prediction(row["case"], true), true)


def extreme_prediction(name: str, true: np.ndarray) -> np.ndarray:
    """Rebuild a prediction from what the case's numbers tell."""
    predicted = np.zeros_like(true) if name in ("empty_pred", "one_pixel_pred") else true.copy()
    if name == "gap_and_dot":
        predicted[256:258, 270:290] = False
        predicted[160:163, 160:163] = True
    elif name == "full_pred":
        predicted[:] = True
    elif name == "one_pixel_pred":
        predicted[100, 100] = True
    else:
        assert name in ("identical", "empty_pred"), f"{name}: not understood"
    return predicted
