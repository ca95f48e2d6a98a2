"""What a segmented volume leaves behind: mask, probability, regions, three slices.

outputs/NAME-mask.nii.gz          0 and 1, at the place and in the voxels of the input
outputs/NAME-probability.nii.gz   of the foreground, 16 bits (65535 is 1)
outputs/NAME-regions.csv          kind,number,voxels,slice,row,column of components and cavities
previews/NAME-overlay.png         a slice across each axis, through the thick of the mask; with a
                                  repair, through its costliest change: added blue, taken away red

Of what is no NIfTI the two are ``.npy``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image
from scipy import ndimage

from geo3d.errors import InputError
from geo3d.files import atomic_path, atomic_write_text
from geo3d.segmentation.outputs import MORTAR_TINT, TINT, Places
from geo3d.segmentation.predict import Prediction
from geo3d.segmentation.rasters import save_volume
from geo3d.segmentation.repairs import ADDED, TAKEN, by_cost, write_changes
from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import label_components
from geo3d.topology.repair import Repaired
from geo3d.work.tables import csv_text

_SIDE = 320
"""Pixels that a slice has at least, enlarged by a whole number."""
Volume = Bool[np.ndarray, "d h w"]


def write_volume(
    source: Path,
    image: Shaped[np.ndarray, "d h w c"],
    prediction: Prediction,
    name: str,
    places: Places,
    repaired: Repaired | None = None,
) -> dict[str, Any]:
    """Write what there is of a volume; return the numbers.

    Args:
        source: the file it came from, whose place in space is kept.
        image: its values.
        prediction: of one foreground class.
        name: of the files.
        places: folders of the run.
        repaired: takes the place of the prediction's mask.

    Raises:
        InputError: ``segment.several_classes``.
    """
    if not prediction.kind.is_binary:
        names = ", ".join(prediction.kind.foreground)
        raise InputError(
            "segment.several_classes",
            f"The segmenter finds {names} in volumes; this command writes one class.",
            "In Python: load_segmenter(FILE).predict(volume).masks.",
        )
    given, foreground = prediction.mask, prediction.probabilities[1]
    mask = given if repaired is None else repaired.mask
    save_volume(places.outputs / f"{name}-mask", mask.astype(np.uint8), source)
    levels = (foreground * 65535).round().astype(np.uint16)
    save_volume(places.outputs / f"{name}-probability", levels, source)
    atomic_write_text(places.outputs / f"{name}-regions.csv", regions_table(mask))
    with atomic_path(places.previews / f"{name}-overlay.png") as beside:
        Image.fromarray(draw_slices(image, given, mask, _middle(mask, repaired))).save(
            beside, format="PNG"
        )
    betti = betti_numbers(mask)
    row = {
        "name": name,
        "shape": list(mask.shape),
        **{f"betti{k}": number for k, number in enumerate(betti)},
        "foreground_fraction": float(mask.mean()),
        "notes": list(prediction.notes),
    }
    if repaired is not None:
        row["repair"] = write_changes(repaired, name, places)
    return row


def regions_table(mask: Volume) -> str:
    """Return components and cavities as CSV, the largest of each kind first."""
    rows: list[list[Any]] = []
    background, _ = label_components(np.pad(~mask, 1, constant_values=True), corners=False)
    inner = background[1:-1, 1:-1, 1:-1]
    cavities = np.where(inner == background[0, 0, 0], 0, inner)
    components, _ = label_components(mask, corners=True)
    for kind, labels in (("component", components), ("cavity", cavities)):
        names, first, sizes = np.unique(labels, return_index=True, return_counts=True)
        order = [k for k in np.argsort(-sizes, kind="stable") if names[k] > 0]
        for number, k in enumerate(order, 1):
            at = np.unravel_index(int(first[k]), mask.shape)
            rows.append([kind, number, int(sizes[k]), *(int(i) for i in at)])
    return csv_text(["kind", "number", "voxels", "slice", "row", "column"], rows)


def draw_slices(
    image: Shaped[np.ndarray, "d h w c"], given: Volume, mask: Volume, at: tuple[int, ...]
) -> UInt8[np.ndarray, "y x 3"]:
    """Return the slices across each axis through a place, side by side."""
    grey = image.astype(np.float32).mean(axis=-1)
    low, high = np.percentile(grey, [1, 99])
    grey = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1) * 255
    parts = []
    for axis, index in enumerate(at):
        part, before, after = (np.take(v, index, axis) for v in (grey, given, mask))
        colours = np.repeat(part[..., None], 3, axis=-1)
        colours[before] = (1 - TINT) * colours[before] + TINT * MORTAR_TINT
        colours[after & ~before], colours[before & ~after] = ADDED, TAKEN
        scale = max(1, round(_SIDE / max(part.shape)))
        parts.append(np.repeat(np.repeat(colours, scale, axis=0), scale, axis=1))
    height = max(part.shape[0] for part in parts)
    framed = [np.pad(p, ((0, height - p.shape[0]), (0, 8), (0, 0))) for p in parts]
    return np.concatenate(framed, axis=1)[:, :-8].round().astype(np.uint8)


def _middle(mask: Volume, repaired: Repaired | None) -> tuple[int, ...]:
    """Return the place to look at."""
    changes = [c for c in by_cost(repaired) if c.at] if repaired else []
    if changes:
        return changes[0].at
    inside = np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1)))[1:-1, 1:-1, 1:-1]
    return tuple(int(i) for i in np.unravel_index(int(inside.argmax()), mask.shape))
