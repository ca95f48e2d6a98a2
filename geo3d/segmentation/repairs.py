"""What a repair of a mask leaves behind: a table of its changes, and an image of them.

outputs/NAME-changes.csv    number,kind,cost,pixels,row,column of every change, the costliest first
                            (of volumes slice,row,column)
previews/NAME-repair.png    the mask that was given in yellow, what was added in blue, what was
                            taken away in red, each change with its number
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from geo3d.files import atomic_path, atomic_write_text
from geo3d.segmentation.outputs import MORTAR_TINT, READABLE_SIDE, TINT, Places
from geo3d.topology.repair import Repaired
from geo3d.topology.repair_components import Change
from geo3d.work.tables import csv_text

ADDED, TAKEN = np.array([0, 114, 255], np.uint8), np.array([213, 0, 50], np.uint8)
MAX_NUMBERS = 200
"""Numbers written into one image: those of the costliest changes."""
AXES = ("slice", "row", "column")


def by_cost(repaired: Repaired) -> list[Change]:
    """Return the changes of a repair, the costliest first: these are the ones to look at."""
    return sorted(repaired.changes, key=lambda change: -change.cost)


def changes_table(repaired: Repaired) -> str:
    """Return the changes as CSV."""
    axes = AXES[-repaired.mask.ndim :]
    rows = [
        [n, c.kind, round(c.cost, 3), c.pixels, *c.at] for n, c in enumerate(by_cost(repaired), 1)
    ]
    return csv_text(["number", "kind", "cost", "pixels", *axes], rows)


def write_repair(
    image: UInt8[np.ndarray, "h w 3"],
    given: Bool[np.ndarray, "h w"],
    repaired: Repaired,
    name: str,
    places: Places,
) -> dict[str, Any]:
    """Write table and image; return the numbers."""
    with atomic_path(places.previews / f"{name}-repair.png") as beside:
        Image.fromarray(draw_changes(image, given, repaired)).save(beside, format="PNG")
    return write_changes(repaired, name, places)


def write_changes(repaired: Repaired, name: str, places: Places) -> dict[str, Any]:
    """Write the table alone; return the numbers."""
    atomic_write_text(places.outputs / f"{name}-changes.csv", changes_table(repaired))
    return {
        "before": list(repaired.before),
        "after": list(repaired.after),
        "changes": len(repaired.changes),
        "cost": round(sum(change.cost for change in repaired.changes), 3),
    }


def draw_changes(
    image: UInt8[np.ndarray, "h w 3"], given: Bool[np.ndarray, "h w"], repaired: Repaired
) -> UInt8[np.ndarray, "y x 3"]:
    """Return the image with what a repair has changed; small ones come back enlarged."""
    mixed = np.where(given[..., None], (1 - TINT) * image + TINT * MORTAR_TINT, image)
    canvas = np.rint(mixed).astype(np.uint8)
    canvas[repaired.mask & ~given] = ADDED
    canvas[given & ~repaired.mask] = TAKEN
    scale = max(1, READABLE_SIDE // max(given.shape))
    drawing = Image.fromarray(np.repeat(np.repeat(canvas, scale, axis=0), scale, axis=1))
    pen = ImageDraw.Draw(drawing)
    font = ImageFont.load_default(max(11, min(drawing.size) // 55))
    for number, change in enumerate(by_cost(repaired)[:MAX_NUMBERS], 1):
        if not change.at:
            continue
        row, column = change.at
        pen.text(
            ((column + 1.5) * scale, (row - 0.5) * scale),
            str(number),
            fill=(20, 24, 29),
            font=font,
            anchor="ls",
            stroke_width=2,
            stroke_fill=(255, 255, 255),
        )
    return np.asarray(drawing)
