"""Whether the shipped segmenter tells walls from other images; neither was learned from.

* drawn: 30 images, two of each kind that was learned from with other seeds, and those of `UNSEEN`.
* photographs: `PHOTOGRAPHS` of scikit-image.
* walls: TopoMortar's test images at hand (``--data``), by group; drawn walls; scikit-image's brick.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from jaxtyping import UInt8

from geo3d.progress import ProgressCallback, ignore_progress, tell_each
from geo3d.segmentation.data import read_topomortar
from geo3d.segmentation.images import read_image
from geo3d.segmentation.predict import load_segmenter
from geo3d.synth.no_walls import KINDS, UNSEEN, no_wall
from geo3d.synth.walls import GROUPS, brick_wall

PHOTOGRAPHS = (
    *("astronaut.png", "camera.png", "cell.png", "chelsea.png", "chessboard_GRAY.png"),
    *("clock_motion.png", "coffee.png", "coins.png", "color.png", "grass.png", "gravel.png"),
    *("horse.png", "hubble_deep_field.jpg", "ihc.png", "logo.png", "microaneurysms.png"),
    *("moon.png", "motorcycle_left.png", "page.png", "phantom.png", "retina.jpg", "rocket.jpg"),
    "text.png",
)
"""All pictures that scikit-image brings but its brick wall, twins, and tiny faces."""
SIDE = 320


def bench_no_walls(
    data: Path | None, seed: int = 0, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Return a row for each group of images.

    Raises:
        InputError: ``dataset.no_folder`` and others of `read_topomortar`.
    """
    segmenter = load_segmenter()
    found: dict[tuple[str, bool], list[tuple[float, str]]] = {}
    for group, name, image, is_wall in tell_each(list(_images(data, seed)), progress, "images"):
        wall = segmenter.predict(image).wall
        found.setdefault((group, is_wall), []).append((wall or 0.0, name))
    rows = []
    for (group, is_wall), all_ in found.items():
        wrong = [f"{name} {p:.2f}" for p, name in all_ if (p >= 0.5) != is_wall]
        rows.append(
            {
                "group": group,
                "images": len(all_),
                "right": f"{1 - len(wrong) / len(all_):.1%}",
                "mean probability of a wall": f"{np.mean([p for p, _ in all_]):.3f}",
                "wrong": ", ".join(wrong),
            }
        )
    return rows


def _images(
    data: Path | None, seed: int
) -> Iterator[tuple[str, str, UInt8[np.ndarray, "h w 3"], bool]]:
    first = 9_000_000 + 1000 * seed
    for kinds, count, group in ((KINDS, 30 - 3 * len(UNSEEN), "drawn"), (UNSEEN, 15, "unseen")):
        for k in range(count):
            kind = tuple(kinds)[k % len(kinds)]
            yield f"no wall, {group}", kind, no_wall(first + k, SIDE, kind=kind), False
    folder = Path(skimage.data.__file__).parent
    for name in PHOTOGRAPHS:
        # Installations without some of them exist.
        if (folder / name).is_file():
            yield "no wall, photographs", name, read_image(folder / name).pixels, False
    for k in range(14):
        group = GROUPS[k % len(GROUPS)]
        yield "walls, drawn", group, brick_wall(first + k, SIDE, SIDE, group=group).image, True
    yield "walls, scikit-image", "brick", read_image(folder / "brick.png").pixels, True
    for item in read_topomortar(data).test if data else ():
        yield f"walls, {item.group}", item.id, item.load().image, True
