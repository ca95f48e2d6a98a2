"""A mask that is being corrected by hand on the page: what the page asks for, checked, and done.

The page sends one stroke at a time as a small JSON object; nothing in it is believed.

Notation: points are (row, column) in pixels of the image, pixel k covering k to k + 1.
"""

from __future__ import annotations

import base64
import io
import math
import threading
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from PIL import Image

from apps.viewer import fragments
from apps.viewer.job_parts import bad_edit, parsed_edit
from geo3d.errors import InputError
from geo3d.files import new_id
from geo3d.segmentation.corrections import Stroke, read_strokes, save_correction
from geo3d.segmentation.images import read_image, read_label
from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import label_components
from geo3d.topology.stroke import stroke

MAX_MESSAGE = 100_000
MAX_POINTS = 2000
MAX_WIDTH = 100
MAX_STROKES = 1000
MAX_UNDONE_PIXELS = 20_000_000
"""Pixels whose changes are remembered; older strokes can then no longer be undone."""
JPEG_QUALITY = 88
LAYER = {
    "largest": (255, 214, 10, 110),
    "pieces": (255, 60, 60, 190),
    "holes": (0, 114, 255, 80),
}
"""Colour and opacity of the largest component, of other components, and of holes."""
TOOLS = (
    '<div class="g3-strokes" role="toolbar" aria-label="Brush">'
    '<label><input type="radio" name="g3-stroke" value="join" checked>Join</label>'
    '<label><input type="radio" name="g3-stroke" value="cut">Cut</label>'
    '<label><input type="radio" name="g3-stroke" value="move">Move</label>'
    f'<label>Width <input type="range" min="1" max="{MAX_WIDTH}" value="5">'
    "<output>5 px</output></label><span>"
    '<button type="button" value="undo">Undo</button>'
    '<button type="button" value="redo">Redo</button>'
    '<button type="button" value="out" aria-label="Zoom out">−</button>'
    '<button type="button" value="in" aria-label="Zoom in">+</button>'
    '<button type="button" value="all">Show all</button></span></div>'
)
"""What strokes.js reads: the tool, its width, and buttons by what they ask for."""


@dataclass(frozen=True, eq=False)
class _Done:
    stroke: Stroke
    changed: Int64[np.ndarray, " n"]
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(eq=False)
class Correction:
    """A mask with its past."""

    run: Path
    name: str
    """Of the segmenter's files, without "-mask.png"."""
    image: UInt8[np.ndarray, "h w 3"]
    first: Bool[np.ndarray, "h w"]
    """As the segmenter made it."""
    mask: Bool[np.ndarray, "h w"]
    """As it is now."""
    betti: tuple[int, ...]
    strokes: list[Stroke]
    past: list[_Done] = field(default_factory=list)
    future: list[_Done] = field(default_factory=list)
    said: str = ""
    """What the last change did."""
    saved: bool = True
    key: str = field(default_factory=new_id)
    """Tells this mask from others on the same page."""
    backdrop: str = ""
    """The image, ready for the page."""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while the mask is changed: two handlers may run at once."""


def open_mask(run: Path, picture: Path, name: str, *, corrected: bool) -> Correction:
    """Return a mask of a run to correct.

    Args:
        run: folder of the run.
        picture: the image.
        name: of the segmenter's files, without "-mask.png".
        corrected: go on from what was saved before; else from what the segmenter made.

    Raises:
        InputError: an image cannot be read, see `geo3d.segmentation.images`.
    """
    first = read_label(run / "outputs" / f"{name}-mask.png").mask
    mask, strokes = first, []
    if corrected:
        mask = read_label(run / "outputs" / f"{name}-corrected-mask.png").mask
        strokes = list(read_strokes(run, name))
    image = read_image(picture).pixels
    made = Correction(run, name, image, first, mask.copy(), betti_numbers(mask), strokes)
    packed = io.BytesIO()
    Image.fromarray(image).save(packed, format="JPEG", quality=JPEG_QUALITY)
    made.backdrop = f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"
    return made


def change(correction: Correction, message: str) -> None:
    """Do what the page asks for.

    Args:
        correction: changed in place.
        message: ``{"op": "stroke", "join": true, "width": 5, "points": [[row, column], ...]}``,
            ``{"op": "undo"}`` or ``{"op": "redo"}``.

    Raises:
        InputError: ``viewer.bad_edit``, ``viewer.too_many_strokes``.
    """
    request = parsed_edit(message, MAX_MESSAGE)
    with correction.lock:
        if request["op"] == "stroke":
            _paint(correction, _stroke_of(request))
        elif request["op"] in ("undo", "redo"):
            forward = request["op"] == "redo"
            source = correction.future if forward else correction.past
            correction.said = f"There is nothing to {request['op']}."
            if source:
                _apply(correction, source.pop(), forward=forward)
        else:
            raise bad_edit("there is no such change")


def save(correction: Correction) -> None:
    """Write the corrected mask into the run.

    Raises:
        InputError: ``viewer.nothing_corrected``; see `save_correction`.
    """
    with correction.lock:
        if (correction.mask == correction.first).all():
            raise InputError(
                "viewer.nothing_corrected",
                "The mask is as the segmenter made it.",
                "Paint a stroke first.",
            )
        masks = correction.first, correction.mask
        save_correction(
            correction.run, correction.name, correction.image, masks, correction.strokes
        )
        correction.saved = True


def canvas(correction: Correction) -> str:
    """Return image and mask as SVG that strokes.js lets one paint on."""
    height, width = correction.mask.shape
    size = f'width="{width}" height="{height}"'
    layer = base64.b64encode(layer_png(correction.mask)).decode()
    return (
        f'<svg class="g3-canvas" viewBox="0 0 {width} {height}" tabindex="0" role="application" '
        'aria-label="The mask on the image. Arrow keys move the brush, Space begins and ends a '
        'stroke, J and C choose join or cut." '
        f'data-mask="{escape(correction.key)}" data-drawn="{new_id()}" '
        f'data-width="{width}" data-height="{height}">'
        f'<image href="{correction.backdrop}" {size}/>'
        f'<image class="g3-layer" href="data:image/png;base64,{layer}" {size}/></svg>'
    )


def numbers(correction: Correction) -> str:
    """Return the Betti numbers now and what the last change did, as HTML."""
    first = betti_numbers(correction.first)
    facts = [
        ("Components", _was(correction.betti[0], first[0]), "Betti number 0: pieces of mortar"),
        ("Holes", _was(correction.betti[1], first[1]), "Betti number 1: bricks with mortar around"),
        ("Strokes", str(len(correction.strokes)), "Painted on the segmenter's mask"),
    ]
    shown = "".join(
        f'<span class="g3-number" title="{escape(why)}">{label} <b>{escape(value)}</b></span>'
        for label, value, why in facts
    )
    mark = fragments.badge(*(("good", "saved") if correction.saved else ("warning", "not saved")))
    said = f'<span class="g3-dim">{escape(correction.said)}</span>'
    return f'<div class="g3-row" role="status" aria-live="polite">{shown}{mark}{said}</div>'


def layer_png(mask: Bool[np.ndarray, "h w"]) -> bytes:
    """Return a mask as PNG to be laid over the image; see `LAYER`."""
    labels, count = label_components(mask, corners=True)
    background, _ = label_components(np.pad(~mask, 1, constant_values=True), corners=False)
    pixels = np.zeros(mask.shape, np.uint8)
    pixels[~mask & (background != background[0, 0])[1:-1, 1:-1]] = 3
    pixels[mask] = 2
    if count:
        pixels[labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1] = 1
    image = Image.fromarray(pixels, mode="P")
    colours = [(0, 0, 0, 0), *LAYER.values()]
    image.putpalette([level for colour in colours for level in colour[:3]])
    packed = io.BytesIO()
    opacity = bytes(colour[3] for colour in colours)
    image.save(packed, format="PNG", transparency=opacity, compress_level=3)
    return packed.getvalue()


def _paint(correction: Correction, painted: Stroke) -> None:
    if len(correction.strokes) >= MAX_STROKES:
        raise InputError(
            "viewer.too_many_strokes",
            f"A mask takes {MAX_STROKES} strokes on the page.",
            "Save it; paint the rest with wider strokes, or in a painting program.",
        )
    found = stroke(correction.mask, painted.points, painted.width, painted.join)
    if not len(found.changed):
        what = "mortar" if painted.join else "brick"
        correction.said = f"The stroke changed nothing: all of it was {what} before."
        return
    done = _Done(painted, found.changed, found.before, found.after)
    correction.future.clear()
    _apply(correction, done, forward=True)
    while sum(len(each.changed) for each in correction.past) > MAX_UNDONE_PIXELS:
        del correction.past[0]


def _apply(correction: Correction, done: _Done, *, forward: bool) -> None:
    """Flip the pixels of a stroke, forward or back, and move it between past and future."""
    correction.mask.ravel()[done.changed] ^= True
    before, after = (done.before, done.after) if forward else (done.after, done.before)
    correction.betti = after
    if forward:
        correction.past.append(done)
        correction.strokes.append(done.stroke)
    else:
        correction.future.append(done)
        correction.strokes.pop()
    what = ("Joined" if done.stroke.join else "Cut") if forward else "Undone"
    correction.said = (
        f"{what}: {len(done.changed)} pixels; components {before[0]} to {after[0]}, "
        f"holes {before[1]} to {after[1]}."
    )
    correction.saved = False


def _stroke_of(request: dict[str, Any]) -> Stroke:
    width, points, join = request.get("width"), request.get("points"), request.get("join")
    size = float(width) if _is_number(width) else 0.0
    if not isinstance(join, bool) or not 0 < size <= MAX_WIDTH:
        raise bad_edit(f"a stroke joins or cuts, and is at most {MAX_WIDTH} pixels wide")
    if not isinstance(points, list) or not 1 <= len(points) <= MAX_POINTS:
        raise bad_edit(f"a stroke has 1 to {MAX_POINTS} points")
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not all(map(_is_number, point)):
            raise bad_edit("a point is a row and a column")
    return Stroke(join, size, tuple((float(r), float(c)) for r, c in points))


def _is_number(value: Any) -> TypeGuard[float]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and abs(value) < 1e6


def _was(now: int, first: int) -> str:
    return str(now) if now == first else f"{now} (was {first})"
