"""What a segmented picture leaves behind: mask, probability, regions, overlay, loss maps.

outputs/NAME-mask.png          0 and 255
outputs/NAME-probability.png   of mortar, 16 bits
outputs/NAME-regions.csv       kind,number,pixels,row,column of every component and hole
previews/NAME-overlay.png      they are outlined and numbered
previews/NAME-loss-map-LOSS.png   blue: the loss wants more mortar here, red: less
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from geo3d.errors import InputError, LimitError, NumericalError
from geo3d.files import atomic_path, atomic_write_text
from geo3d.segmentation.overlay import Region, draw_overlay, find_topology
from geo3d.segmentation.pictures import save_mask
from geo3d.segmentation.predict import Prediction
from geo3d.work.tables import csv_text

MAX_LOSS_MAP_PIXELS = 2**23
"""Larger pictures get no loss gradient maps: the memory of some losses would not be enough."""


@dataclass(frozen=True)
class Places:
    """Folders of a run."""

    outputs: Path
    previews: Path


def write_prediction(
    image: UInt8[np.ndarray, "h w 3"], prediction: Prediction, name: str, places: Places
) -> dict[str, Any]:
    """Write all but the loss maps; return the numbers."""
    mask, mortar = prediction.mask, prediction.probabilities[1]
    topology = find_topology(mask)
    save_mask(places.outputs / f"{name}-mask.png", mask)
    _save(places.outputs / f"{name}-probability.png", (mortar * 65535).round().astype(np.uint16))
    _save(places.previews / f"{name}-overlay.png", draw_overlay(image, topology))
    atomic_write_text(places.outputs / f"{name}-regions.csv", _regions_csv(topology.regions))
    components, holes = topology.betti
    return {
        "name": name,
        "width": mask.shape[1],
        "height": mask.shape[0],
        "betti0": components,
        "betti1": holes,
        "mortar_fraction": float(mask.mean()),
        "notes": list(prediction.notes),
    }


def write_loss_maps(
    image: UInt8[np.ndarray, "h w 3"],
    prediction: Prediction,
    label: Bool[np.ndarray, "y x"] | None,
    losses: Sequence[str],
    name: str,
    places: Places,
) -> list[str]:
    """Draw the gradient map of each loss; return notes on losses that could not be asked.

    Args:
        image: the picture.
        prediction: what is judged.
        label: what it is compared with; None takes the prediction without its small pieces.
        losses: see `geo3d.segmentation.loss_maps.losses_with_maps`.
        name: of the files.
        places: folders of the run.

    Raises:
        ConfigError: "loss_maps.unknown_loss".
    """
    from geo3d.segmentation.loss_maps import cleaned_label, draw_loss_map, loss_gradient_map

    notes = []
    target = cleaned_label(prediction.mask) if label is None else label
    if losses and label is None and (target == prediction.mask).all():
        notes.append("the prediction has no small pieces: losses compare it with itself")
    for loss in losses:
        try:
            _check_size(prediction)
            found = loss_gradient_map(prediction.probabilities[1], target, loss)
            _save(places.previews / f"{name}-loss-map-{loss}.png", draw_loss_map(image, found))
        except (InputError, NumericalError) as error:
            notes.append(f"no loss map of {loss}: {error.message}")
    return notes


def _check_size(prediction: Prediction) -> None:
    pixels = prediction.mask.size
    if pixels > MAX_LOSS_MAP_PIXELS:
        raise LimitError(
            "loss_maps.too_large",
            f"The picture has {pixels} pixels, more than {MAX_LOSS_MAP_PIXELS}.",
            "Cut out the part of interest.",
        )


def _save(path: Path, pixels: np.ndarray) -> None:
    with atomic_path(path) as beside:
        Image.fromarray(pixels).save(beside, format="PNG")


def _regions_csv(regions: Sequence[Region]) -> str:
    return csv_text(["kind", "number", "pixels", "row", "column"], map(vars, regions))
