"""Draw a layout: the plan from above with the drive, and the classes that four cameras see."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from apps.commands import add_common, emit

if TYPE_CHECKING:
    import numpy as np

    from geo3d.layout.layout import Layout

_SIDE, _VIEWS = 320, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d layout show``."""
    parser.add_argument("file", help="layout, or anything that `geo3d layout import` reads")
    parser.add_argument(
        "--out", metavar="FILE", help="image, .png or .svg (default: NAME.png here)"
    )
    add_common(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Write the image."""
    from geo3d.files import slug
    from geo3d.render.previews import save_png
    from scenes.urban.imports.door import import_layout
    from scenes.urban.plan import save_plan

    layout = import_layout(Path(args.file)).layout
    out = Path(args.out or f"{slug(layout.name)}.png")
    if out.suffix == ".svg":
        save_plan(layout, out)
    else:
        save_png(_sheet(layout), out)
    emit(args, {"path": str(out)}, f"{out}")
    return 0


def _sheet(layout: Layout) -> np.ndarray:
    """Return the plan, and below it what cameras along the drive see, as classes."""
    import numpy as np
    from PIL import Image

    from scenes.urban.conditions import RayScene, semantic_colors, street_camera
    from scenes.urban.plan import plan_image

    plan = plan_image(layout, _SIDE * _VIEWS)
    if len(plan) > (most := 2 * _SIDE * _VIEWS):
        # a long street seen along its length
        size = (round(plan.shape[1] * most / len(plan)), most)
        small = np.asarray(Image.fromarray(plan).resize(size, Image.Resampling.LANCZOS))
        plan = np.full((most, _SIDE * _VIEWS, 3), 244, np.uint8)
        plan[:, : size[0]] = small
    if not len(layout.trajectory):
        return plan
    rays, last = RayScene(layout), len(layout.trajectory) - 1
    views = []
    for at in np.linspace(0, last, _VIEWS + 1)[:-1].round().astype(int):
        maps = rays.maps(street_camera(layout.trajectory[at], _SIDE), segments=False)
        views.append(semantic_colors(maps.label))
    return np.concatenate([plan, np.concatenate(views, axis=1)])
