"""Masks of a run that were corrected by hand, beside those that the segmenter made.

outputs/NAME-corrected-mask.png        0 and 255, as NAME-mask.png
outputs/NAME-corrected-regions.csv     its components and holes
outputs/NAME-strokes.json              what was painted, in order
previews/NAME-corrected-overlay.png    outlined and numbered

The segmenter's own mask stays what it is, and the manifest says under "corrected_by_hand" which
masks are not a segmenter's alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from geo3d.files import atomic_write_json
from geo3d.runs import amend_run
from geo3d.segmentation.outputs import Places, write_mask
from geo3d.topology.betti import betti_numbers

CORRECTED = "-corrected"
"""Ending of the names of what was corrected."""


@dataclass(frozen=True)
class Stroke:
    """What was painted once."""

    join: bool
    """Whether it became foreground; else background."""
    width: float
    """Pixels."""
    points: tuple[tuple[float, float], ...]
    """Row and column of each corner, see `geo3d.topology.stroke`."""


def save_correction(
    run: Path,
    name: str,
    image: UInt8[np.ndarray, "h w 3"],
    masks: tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]],
    strokes: Sequence[Stroke],
) -> None:
    """Write a corrected mask into a run that is done, and say so in its manifest.

    Args:
        run: folder of the run.
        name: of the files of the segmenter's mask, without "-mask.png".
        image: the image.
        masks: as the segmenter made it, and as corrected.
        strokes: that lead from the first to the second.

    Raises:
        InputError: "run.not_a_run", "run.not_done".
    """
    outputs = run / "outputs"
    write_mask(image, masks[1], name + CORRECTED, Places(outputs, run / "previews"))
    atomic_write_json(outputs / f"{name}-strokes.json", [asdict(each) for each in strokes])
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    before, after = (list(betti_numbers(mask)) for mask in masks)
    known = manifest.get("corrected_by_hand", {})
    known[name] = {
        "mask": f"outputs/{name}{CORRECTED}-mask.png",
        "strokes": len(strokes),
        "pixels": int((masks[0] != masks[1]).sum()),
        "before": before,
        "after": after,
        "saved": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    amend_run(run, corrected_by_hand=known)


def read_strokes(run: Path, name: str) -> tuple[Stroke, ...]:
    """Return the strokes that were saved; none where nothing was."""
    path = run / "outputs" / f"{name}-strokes.json"
    if not path.is_file():
        return ()
    rows = json.loads(path.read_text("utf-8"))
    return tuple(
        Stroke(row["join"], row["width"], tuple((r, c) for r, c in row["points"])) for row in rows
    )
