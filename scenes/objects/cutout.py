"""Which pixels of an image are the object: by opacity, a plain background, or the colours of both.

* `tells_object`: an image's opacity shows an object, and not a stray pixel or a frame.
* `remove_plain_background`: an object in front of a plain wall.
* `remove_background`: that, and for any other photograph GrabCut, which learns the colours of what
  is near the edge of the image and of what is not, and cuts between them.

Notation: h, w pixels.

Source: Rother et al., "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts"
(2004), through OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from jaxtyping import Bool
from PIL import Image

from geo3d import backends
from geo3d.errors import InputError
from scenes.objects.image_files import as_rgba

RemoveBackground = Callable[[Image.Image], Image.Image]
"""RGB in, RGBA of the same size out."""
OPAQUE = 0.8 * 255
"""A pixel of less opacity is not the object's."""
CLEAR_SHARE = 0.01
"""An opacity that leaves out less of the image than this tells no object."""
FRAME_SHARE = 0.9
"""Opaque pixels that fill a box larger than this share of the image are a framed photograph."""
_TOLERANCE = 0.08
_SMALLEST_PART = 0.02
"""Parts of an object smaller than this share of the largest are specks."""
_CUT_SIDE = 320
"""Longer side of the image that is cut: more takes long and changes only the outline's detail."""
_ROUNDS = 5
_EDGE = 0.03
"""Width of the border that is known to be background, over the shorter side."""
_LEAST, _MOST = 0.01, 0.92
"""Shares of an image that a cut-out object may have."""
_HINT = (
    "Cut the object out so that the rest is transparent, give its outline with --mask, or "
    "photograph it against a plain wall."
)


def tells_object(image: Image.Image) -> bool:
    """Return whether the opacity of an image shows where the object is."""
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return False
    opaque = np.asarray(as_rgba(image))[:, :, 3] > OPAQUE
    if opaque.mean() > 1 - CLEAR_SHARE:
        return False
    ys, xs = np.nonzero(opaque)
    if len(xs) == 0:
        return True
    area = int(np.ptp(ys) + 1) * int(np.ptp(xs) + 1)
    is_frame = area > FRAME_SHARE * opaque.size and len(xs) > (1 - CLEAR_SHARE) * area
    return not is_frame


def remove_background(image: Image.Image) -> Image.Image:
    """Make transparent what is not the object, of a photograph of one object.

    Raises:
        InputError: ``object_image.busy_background`` (the object is not found, or OpenCV, which
            finds it before a background of many colours, is not installed).
    """
    plain = remove_plain_background(image) if has_plain_border(image) else None
    if plain is not None and _is_sound(np.asarray(plain)[:, :, 3] > 0):
        return plain
    library = backends.available("opencv")
    if not library.is_available:
        raise _not_found(f"without OpenCV ({library.install_line})")
    found = grab_cut(image)
    if not _is_sound(found):
        if plain is not None:
            return plain
        raise _not_found("for certain")
    return with_mask(image, found)


def has_plain_border(image: Image.Image) -> bool:
    """Return whether three quarters of the border have one colour."""
    rgb = np.asarray(image.convert("RGB"))
    _, alike = _like_border(rgb)
    return bool(alike.mean() >= 0.75)


def remove_plain_background(image: Image.Image) -> Image.Image:
    """Make transparent what touches the border and has the border's colour, and specks."""
    rgb = np.asarray(image.convert("RGB"))
    plain, _ = _like_border(rgb)
    alike = np.abs(rgb.astype(np.float32) - plain).max(axis=2) <= 255 * _TOLERANCE
    regions, _ = _regions(alike)
    background = np.isin(regions, _border_labels(regions)) & alike
    return with_mask(image, without_specks(~background))


def grab_cut(image: Image.Image) -> Bool[np.ndarray, "h w"]:
    """Return which pixels are the object, by the colours at the border and in the middle.

    Raises:
        BackendUnavailable: ``backend.unavailable`` (OpenCV is not installed).
    """
    cv2 = backends.require("opencv")
    scale = min(1.0, _CUT_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX))
    edge = max(1, round(_EDGE * min(size)))
    marks = np.full(small.shape[:2], cv2.GC_PR_FGD, np.uint8)
    marks[:edge] = marks[-edge:] = marks[:, :edge] = marks[:, -edge:] = cv2.GC_BGD
    if not (marks == cv2.GC_PR_FGD).any():
        return np.zeros((image.height, image.width), bool)
    # The colours of both sides start from random clusters.
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    small = np.ascontiguousarray(small)
    cv2.grabCut(small, marks, None, *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = without_specks((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD))
    grey = Image.fromarray(np.where(found, 255, 0).astype(np.uint8))
    return np.asarray(grey.resize(image.size, Image.Resampling.BILINEAR)) > 127


def with_mask(image: Image.Image, mask: Bool[np.ndarray, "h w"]) -> Image.Image:
    """Return the image, opaque in the mask alone."""
    return Image.fromarray(np.dstack([np.asarray(image.convert("RGB")), np.uint8(255) * mask]))


def without_specks(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return a mask without its small parts, and with its small holes filled."""
    kept = _large_parts(mask)
    return ~_large_parts(~kept, floor=_SMALLEST_PART * int(kept.sum()))


def _large_parts(mask: Bool[np.ndarray, "h w"], floor: float = 0.0) -> Bool[np.ndarray, "h w"]:
    regions, count = _regions(mask)
    if count == 0:
        return mask
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[0] = 0
    enough = sizes >= (floor or _SMALLEST_PART * sizes.max())
    # What goes on beyond the image may be large.
    enough[_border_labels(regions)] |= floor > 0
    enough[0] = False
    return enough[regions]


def _is_sound(mask: Bool[np.ndarray, "h w"]) -> bool:
    """Return whether a mask is an object within the image, neither a speck nor all of it."""
    edges = [mask[0].mean(), mask[-1].mean(), mask[:, 0].mean(), mask[:, -1].mean()]
    return _LEAST <= mask.mean() <= _MOST and min(edges) < 0.5


def _like_border(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median colour of the border, and which pixels of the border are like it."""
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.float32)
    plain = np.median(border, axis=0)
    return plain, np.abs(border - plain).max(axis=1) <= 255 * _TOLERANCE


def _regions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    from scipy import ndimage

    return cast(tuple[np.ndarray, int], cast(Any, ndimage.label)(mask))


def _border_labels(regions: np.ndarray) -> np.ndarray:
    edges = [regions[0], regions[-1], regions[:, 0], regions[:, -1]]
    labels = np.unique(np.concatenate(edges))
    return labels[labels > 0]


def _not_found(how: str) -> InputError:
    return InputError(
        "object_image.busy_background",
        f"The image has no transparency and no plain background: the object is not found {how}.",
        _HINT,
    )
