"""Figures of functional maps: what is in them, and how often a live one is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shape_matching.evaluate import figures
from shape_matching.evaluate.figures import live_preview, plot_fmap
from shape_matching.method_names import ABLATION_NAMES, METHOD_HINTS
from shape_matching.methods import METHODS, takes


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def test_positive_is_red_negative_is_blue_and_details_are_left_out(tmp_path: Path) -> None:
    fmap = np.zeros((90, 80))
    fmap[:30, :60], fmap[30:60, :60] = 1.0, -1.0
    plot_fmap(tmp_path / "a.png", fmap, "map")
    shown = pixels(tmp_path / "a.png")
    half = shown.shape[0] // 2, shown.shape[1] // 3
    upper, lower = shown[: half[0], half[1]], shown[half[0] :, half[1]]
    assert (upper[:, 0] - upper[:, 2]).max() > 60
    assert (lower[:, 2] - lower[:, 0]).max() > 60
    fmap[60:] = 1.0
    fmap[:, 60:] = -1.0
    plot_fmap(tmp_path / "b.png", fmap, "map")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_live_images_are_replaced_but_not_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(figures.time, "monotonic", lambda: now)
    path = tmp_path / "previews" / "live.png"
    on_map = live_preview(path)
    on_map("chosen", torch.eye(5))
    first = path.read_bytes()
    on_map("step 5", -torch.eye(5))
    assert path.read_bytes() == first
    now += figures.LIVE_S
    on_map("step 10", -torch.eye(5))
    assert path.read_bytes() != first
    assert [p.name for p in path.parent.iterdir()] == ["live.png"]


def test_every_method_is_named() -> None:
    assert [*METHOD_HINTS, *ABLATION_NAMES] == list(METHODS)


def test_what_methods_take() -> None:
    starts = [name for name, method in METHODS.items() if takes(method, "landmarks")]
    assert {"axiomatic", "diffumatch"} <= set(starts)
    assert not {"zoomout", "nearest"} & set(starts)
    assert takes(METHODS["zoomout"], "on_map") and not takes(METHODS["nearest"], "on_map")
