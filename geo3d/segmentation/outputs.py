"""What a segmented image leaves behind: mask, probability, regions, overlay, loss maps.

outputs/NAME-mask.png          0 and 255
outputs/NAME-probability.png   of mortar, 16 bits
outputs/NAME-regions.csv       kind,number,pixels,row,column of every component and hole
previews/NAME-overlay.png      they are outlined and numbered
previews/NAME-loss-map-LOSS.png   blue: the loss wants more mortar here, red: less

Images that show a mask's topology: every component and every hole outlined and numbered.

As in the Betti numbers (`geo3d.topology.betti`, "cells"), foreground pixels that share a corner
belong together, background pixels only along sides; a hole is a piece of background that does not
reach the border.  Regions of each kind are numbered from 1, the largest first, so in a connected
wall everything but component 1 is a broken-off piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from geo3d.errors import InputError, LimitError, NumericalError, ShapeError
from geo3d.files import atomic_path, atomic_write_text
from geo3d.segmentation.images import save_mask
from geo3d.segmentation.predict import Prediction
from geo3d.topology.repair import Repaired
from geo3d.work.tables import csv_text

MAX_LOSS_MAP_PIXELS = 2**23
"""Larger images get no loss gradient maps: the memory of some losses would not be enough."""


@dataclass(frozen=True)
class Places:
    """Folders of a run."""

    outputs: Path
    previews: Path


def write_prediction(
    image: UInt8[np.ndarray, "h w 3"],
    prediction: Prediction,
    name: str,
    places: Places,
    repaired: Repaired | None = None,
) -> dict[str, Any]:
    """Write all but the loss maps; return the numbers.

    A repaired mask takes the place of the prediction's.
    """
    mortar = prediction.probabilities[1]
    mask = prediction.mask if repaired is None else repaired.mask
    components, holes = write_mask(image, mask, name, places).betti
    _save(places.outputs / f"{name}-probability.png", (mortar * 65535).round().astype(np.uint16))
    return {
        "name": name,
        "width": mask.shape[1],
        "height": mask.shape[0],
        "betti0": components,
        "betti1": holes,
        "mortar_fraction": float(mask.mean()),
        "wall_probability": prediction.wall,
        "notes": list(prediction.notes),
    }


def write_mask(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], name: str, places: Places
) -> Topology:
    """Write a mask, its regions and its overlay; return what was found in it."""
    topology = find_topology(mask)
    save_mask(places.outputs / f"{name}-mask.png", mask)
    _save(places.previews / f"{name}-overlay.png", draw_overlay(image, topology))
    atomic_write_text(places.outputs / f"{name}-regions.csv", _regions_csv(topology.regions))
    return topology


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
        image: the image.
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
            f"The image has {pixels} pixels, more than {MAX_LOSS_MAP_PIXELS}.",
            "Cut out the part of interest.",
        )


def _save(path: Path, pixels: np.ndarray) -> None:
    with atomic_path(path) as beside:
        Image.fromarray(pixels).save(beside, format="PNG")


def _regions_csv(regions: Sequence[Region]) -> str:
    return csv_text(["kind", "number", "pixels", "row", "column"], map(vars, regions))


Kind = Literal["component", "hole"]
MORTAR_TINT = np.array([255, 214, 10], np.float32)
COMPONENT_COLORS = np.array(
    [[0, 158, 115], [213, 94, 0], [204, 60, 150], [150, 30, 30], [120, 100, 0]], np.uint8
)
"""Outlines of component 1, then of the others in turn."""
HOLE_COLOR = np.array([0, 114, 255], np.uint8)
TINT = 0.25
READABLE_SIDE = 768
"""Smaller images are enlarged by a whole number so that numbers can be read."""
MAX_NUMBERS = 400
"""Numbers written into one image; smaller regions are outlined only."""


@dataclass(frozen=True)
class Region:
    """A component of the mask, or a hole in it."""

    kind: Kind
    number: int
    """From 1, by size."""
    pixels: int
    row: int
    column: int
    """Its pixel farthest from other regions."""


@dataclass(frozen=True)
class Topology:
    """The regions of a mask."""

    components: Int32[np.ndarray, "h w"]
    """Number of the component at each pixel, 0 outside."""
    holes: Int32[np.ndarray, "h w"]
    regions: tuple[Region, ...]
    """Components, then holes, each by number."""

    @property
    def betti(self) -> tuple[int, int]:
        """Betti numbers: components and holes."""
        return int(self.components.max()), int(self.holes.max())


def find_topology(mask: Bool[np.ndarray, "h w"]) -> Topology:
    """Return the components and holes of a mask."""
    components, _ = ndimage.label(mask, np.ones((3, 3)), output=np.int32)  # type: ignore[misc]
    outside, _ = ndimage.label(~np.pad(mask, 1), output=np.int32)  # type: ignore[misc]
    # The corner of the padded frame belongs to the piece that reaches the border.
    holes = np.where(outside == outside[0, 0], 0, outside)[1:-1, 1:-1]
    components, holes = _by_size(components), _by_size(holes)
    regions = (*_regions(components, "component"), *_regions(holes, "hole"))
    return Topology(components, holes, regions)


def draw_overlay(
    image: UInt8[np.ndarray, "h w 3"], topology: Topology, *, numbers: bool = True
) -> UInt8[np.ndarray, "y x 3"]:
    """Return the image with the mask tinted, outlines, and numbers.

    Small images come back enlarged, see `READABLE_SIDE`.

    Raises:
        ShapeError: "overlay.unequal_sizes".
    """
    if image.shape[:2] != topology.components.shape:
        raise ShapeError(
            "overlay.unequal_sizes",
            f"The image is {image.shape[:2]} and the mask {topology.components.shape}.",
            "Both come from one image.",
        )
    scale = max(1, READABLE_SIDE // max(image.shape[:2]))
    large, components, holes = (
        np.repeat(np.repeat(array, scale, axis=0), scale, axis=1)
        for array in (image, topology.components, topology.holes)
    )
    mixed = np.where((components > 0)[..., None], (1 - TINT) * large + TINT * MORTAR_TINT, large)
    canvas = np.rint(mixed).astype(np.uint8)
    canvas[_edges(holes)] = HOLE_COLOR
    edge = _edges(components)
    canvas[edge] = _component_colors(components[edge])
    return _write_numbers(canvas, topology.regions, scale) if numbers else canvas


def _by_size(labels: Int32[np.ndarray, "h w"]) -> Int32[np.ndarray, "h w"]:
    """Number regions from 1, the largest first; equal ones in order of their first pixel."""
    names, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    keep = names > 0
    names, first, sizes = names[keep], first[keep], sizes[keep]
    table = np.zeros(int(labels.max()) + 1, np.int32)
    table[names[np.lexsort((first, -sizes))]] = np.arange(1, len(names) + 1)
    return table[labels]


def _regions(labels: Int32[np.ndarray, "h w"], kind: Kind) -> list[Region]:
    count = int(labels.max())
    if count == 0:
        return []
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    # Distance to whatever is not this region: pieces of one kind never touch along sides.
    inside = np.asarray(ndimage.distance_transform_edt(np.pad(labels > 0, 1)))[1:-1, 1:-1]
    spots = ndimage.maximum_position(inside, labels, range(1, count + 1))
    return [
        Region(kind, n, int(sizes[n]), int(spot[0]), int(spot[1]))
        for n, spot in enumerate(spots, 1)
    ]


def _edges(labels: Int32[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of regions that have something else above, below, left or right."""
    framed = np.pad(labels, 1, constant_values=-1)
    middle = framed[1:-1, 1:-1]
    others = (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:])
    return (middle > 0) & np.logical_or.reduce([middle != other for other in others])


def _component_colors(numbers: Int32[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    others = 1 + (numbers - 2) % (len(COMPONENT_COLORS) - 1)
    return COMPONENT_COLORS[np.where(numbers == 1, 0, others)]


def _write_numbers(
    canvas: UInt8[np.ndarray, "h w 3"], regions: Sequence[Region], scale: int
) -> UInt8[np.ndarray, "h w 3"]:
    drawing = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawing)
    font = ImageFont.load_default(max(11, min(canvas.shape[:2]) // 55))

    for region in sorted(regions, key=lambda r: -r.pixels)[:MAX_NUMBERS]:
        color = HOLE_COLOR
        if region.kind == "component":
            color = _component_colors(np.array([region.number], np.int32))[0]
        place = ((region.column + 0.5) * scale, (region.row + 0.5) * scale)
        pen.text(
            place,
            str(region.number),
            fill=tuple(int(c) for c in color),
            font=font,
            anchor="mm",
            stroke_width=2,
            stroke_fill=(255, 255, 255),
        )
    return np.asarray(drawing)
