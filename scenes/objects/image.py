"""A photograph to the square image the pipeline understands: the object alone, on black.

The object is told by the image's opacity, by a mask, or found (`scenes.objects.cutout`).

Notation: h, w pixels; the result is ``size`` x ``size`` RGB of bytes.

Source: Xiang et al., "Structured 3D Latents" (TRELLIS, 2024), released preprocessing.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from PIL import Image

from geo3d.errors import InputError
from scenes.objects.cutout import (
    OPAQUE,
    RemoveBackground,
    remove_background,
    tells_object,
    with_mask,
)
from scenes.objects.image_files import as_rgba

SIZE = 518
"""Pixels per side that DINOv2 is fed."""
MAX_SIDE = 1024
"""An image whose background must be removed is reduced to this first."""
MARGIN = 1.2
"""Side of the crop over the object's longer side."""


def prepare_image(
    image: Image.Image,
    remover: RemoveBackground = remove_background,
    size: int = SIZE,
    mask: Bool[np.ndarray, "h w"] | None = None,
) -> Image.Image:
    """Return the object of ``image``, centred on black, as RGB of ``size`` x ``size``.

    Args:
        image: any image; its opacity, if it has one that tells, is the object's.
        remover: finds the object in an image without.
        size: pixels per side.
        mask: which pixels are the object; then nothing else is asked.

    Raises:
        InputError: ``object_image.no_object`` (nothing is opaque), and those of ``remover``.
    """
    cut = with_mask(as_rgba(image), mask) if mask is not None else _cut_out(image, remover)
    alpha = np.asarray(cut)[:, :, 3]
    ys, xs = np.nonzero(alpha > OPAQUE)
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


def _cut_out(image: Image.Image, remover: RemoveBackground) -> Image.Image:
    if tells_object(image):
        return as_rgba(image)
    whole = _without_frame(as_rgba(image))
    scale = min(1.0, MAX_SIDE / max(whole.size))
    if scale < 1:
        size = (max(1, int(whole.width * scale)), max(1, int(whole.height * scale)))
        whole = whole.resize(size, Image.Resampling.LANCZOS)
    found = remover(whole.convert("RGB")).convert("RGBA")
    # A stray transparent pixel holds any colour: it is no part of what is found.
    pixels = np.array(found)
    pixels[:, :, 3] = np.minimum(pixels[:, :, 3], np.asarray(whole)[:, :, 3])
    return Image.fromarray(pixels)


def _without_frame(image: Image.Image) -> Image.Image:
    ys, xs = np.nonzero(np.asarray(image)[:, :, 3] > OPAQUE)
    if len(xs) == 0:
        return image
    return image.crop((int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1))


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
