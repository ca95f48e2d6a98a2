"""Golden cases of layout maps: what the published rasteriser and a ray caster saw.

Cases are found by listing the folder; a file that is not understood is a failure.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geo3d.render.cameras import Camera
from scenes.urban.conditions import LayoutMaps, RayScene
from scenes.urban.imports.samples import import_sample

HERE = Path(__file__).parent
ROOT = HERE.parents[2] / "shared"
FOLDER = Path(os.environ.get("GEO3D_GOLDEN", ROOT / "golden")) / "urban" / "layout"
SAMPLES = Path(os.environ.get("GEO3D_DATA", ROOT / "data")) / "urban_layouts"


@lru_cache(maxsize=1)
def scene_of(sample: int) -> RayScene:
    return RayScene(import_sample(SAMPLES / f"sample_{sample}_flat.npz"), threads=1)


def maps_of(case: Any, **options: Any) -> LayoutMaps:
    cfg, k = json.loads(str(case["cfg"])), case["K"]
    camera = Camera(
        case["c2w"], k[0, 0], k[1, 1], k[0, 2], k[1, 2], int(cfg["width"]), int(cfg["height"])
    )
    return scene_of(cfg["sample"]).maps(camera, **options)


def share(a: np.ndarray, b: np.ndarray, absolute: float, relative: float) -> float:
    """Return the part of the pixels that agree within a tolerance."""
    return float((np.abs(a - b) <= np.maximum(absolute, relative * np.abs(b))).mean())


@pytest.mark.golden
@pytest.mark.data
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*")), ids=lambda p: p.name)
def test_golden_case(path: Path) -> None:
    assert path.suffix == ".npz", f"{path.name}: not understood"
    if not SAMPLES.is_dir():
        pytest.skip("the sample layouts are not here")
    with np.load(path) as case:
        maps, released = maps_of(case), maps_of(case, compat=True)
        same = (maps.label == case["ray_label"]) & (
            np.abs(maps.depth - case["ray_depth"])
            <= np.maximum(0.01, 0.001 * np.abs(case["ray_depth"]))
        )
        assert same.mean() >= 0.9995
        assert (maps.instance == case["ray_mesh_id"]).mean() >= 0.985
        assert maps.far is not None and released.far is not None and released.near is not None
        assert share(maps.far, case["far"], 0.0, 0.01) >= 0.84
        assert (released.label == case["label"]).mean() >= 0.985
        both = (released.depth > 0) & (case["depth"] > 0)
        assert share(released.depth[both], case["depth"][both], 0.05, 0.01) >= 0.98
        assert (released.instance == case["mesh_id"]).mean() >= 0.985
        assert share(released.near, case["near"], 0.0, 0.01) >= 0.995
        assert share(released.far, case["far"], 0.0, 0.01) >= 0.995
