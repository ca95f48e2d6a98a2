"""A photograph to the square image the pipeline understands: the object alone, on black.

The object is told by the image's transparency.  An image without any needs its background
removed first: by a function the caller passes, or by `remove_plain_background`, which is enough for
an object in front of a plain wall.

Notation: h, w pixels; the result is ``size`` x ``size`` RGB of bytes.

Source: Xiang et al., "Structured 3D Latents" (TRELLIS, 2024), released preprocessing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from geo3d.errors import FileFormatError, InputError, LimitError

SIZE = 518
"""Pixels per side that DINOv2 is fed."""
MAX_SIDE = 1024
"""An image whose background must be removed is reduced to this first."""
MARGIN = 1.2
"""Side of the crop over the object's longer side."""
_OPAQUE = 0.8 * 255
_MAX_PIXELS = 64_000_000

RemoveBackground = Callable[[Image.Image], Image.Image]
"""RGB in, RGBA of the same size out."""


def read_image(path: str | Path, max_pixels: int = _MAX_PIXELS) -> Image.Image:
    """Read an image of at most ``max_pixels`` as RGBA, with the rotation its camera noted.

    Raises:
        InputError: ``object_image.missing``.
        FileFormatError: ``object_image.unreadable``.
        LimitError: ``object_image.too_large``.
    """
    if not Path(path).is_file():
        raise InputError("object_image.missing", f"There is no image {path}.", "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height <= max_pixels:
                    return ImageOps.exif_transpose(image).convert("RGBA")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        pass
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise FileFormatError(
            "object_image.unreadable", f"{path} is no image that can be read.", "Save it as PNG."
        ) from error
    raise LimitError(
        "object_image.too_large",
        f"{path} has too many pixels.",
        f"Reduce it to at most {max_pixels:,} pixels.",
    )


def prepare_image(
    image: Image.Image, remove_background: RemoveBackground | None = None, size: int = SIZE
) -> Image.Image:
    """Return the object of ``image``, centred on black, as RGB of ``size`` x ``size``.

    Args:
        image: any image; its transparency, if it has some, tells the object.
        remove_background: used for an image without transparency; by default
            `remove_plain_background`.
        size: pixels per side.

    Raises:
        InputError: ``object_image.no_object`` (nothing is opaque).
    """
    cut = _cut_out(image, remove_background or remove_plain_background)
    alpha = np.asarray(cut)[:, :, 3]
    ys, xs = np.nonzero(alpha > _OPAQUE)
    if len(xs) == 0:
        raise InputError(
            "object_image.no_object",
            "Nothing in the image is opaque: no object is found.",
            "Cut the object out, so that the rest is transparent.",
        )
    box = _square(int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max()))
    scaled = cut.crop(box).resize((size, size), Image.Resampling.LANCZOS)
    values = np.asarray(scaled).astype(np.float32) / 255
    black = values[:, :, :3] * values[:, :, 3:]
    return Image.fromarray((black * 255).astype(np.uint8))


def has_transparency(image: Image.Image) -> bool:
    """Return whether some pixel is not fully opaque."""
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return False
    return bool((np.asarray(image.convert("RGBA"))[:, :, 3] < 255).any())


def remove_plain_background(image: Image.Image, tolerance: float = 0.08) -> Image.Image:
    """Make transparent what touches the border and has the border's colour.

    Args:
        image: RGB.
        tolerance: greatest distance of a background pixel from the border's median colour, of a
            channel in [0, 1].

    Raises:
        InputError: ``object_image.busy_background`` (the border has no one colour).
    """
    from scipy import ndimage

    rgb = np.asarray(image.convert("RGB"))
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.float32)
    plain = np.median(border, axis=0)
    if np.mean(np.abs(border - plain).max(axis=1) <= 255 * tolerance) < 0.75:
        raise InputError(
            "object_image.busy_background",
            "The image has no transparency and no plain background: the object is not found.",
            "Cut the object out, so that the rest is transparent, or photograph it against a wall.",
        )
    alike = np.abs(rgb.astype(np.float32) - plain).max(axis=2) <= 255 * tolerance
    regions = cast(tuple[np.ndarray, int], ndimage.label(alike))[0]
    background = np.isin(regions, _border_labels(regions)) & alike
    return Image.fromarray(np.dstack([rgb, np.where(~background, 255, 0).astype(np.uint8)]))


def _cut_out(image: Image.Image, remove_background: RemoveBackground) -> Image.Image:
    if has_transparency(image):
        return image.convert("RGBA")
    rgb = image.convert("RGB")
    scale = min(1.0, MAX_SIDE / max(rgb.size))
    if scale < 1:
        rgb = rgb.resize(
            (int(rgb.width * scale), int(rgb.height * scale)), Image.Resampling.LANCZOS
        )
    return remove_background(rgb).convert("RGBA")


def _square(left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
    """Return a box around the middle of another, its side the longer one and a margin."""
    half = int(max(right - left, bottom - top) * MARGIN) // 2
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    return (
        round(middle_x - half),
        round(middle_y - half),
        round(middle_x + half),
        round(middle_y + half),
    )


def _border_labels(regions: np.ndarray) -> np.ndarray:
    edges = [regions[0], regions[-1], regions[:, 0], regions[:, -1]]
    labels = np.unique(np.concatenate(edges))
    return labels[labels > 0]
