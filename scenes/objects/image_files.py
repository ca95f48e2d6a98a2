"""Image files of any kind, upright, as 8-bit RGBA; and masks.

Whatever a file holds beyond 8-bit colour is converted by fixed rules:

* whole numbers of more than 8 bits by their depth, the least of 8, 10, 12 and 16 bits that holds
  them all: a photograph of 12 bits in a file of 16 is not black;
* real numbers up to 1 as shares of white; other numbers beyond 16 bits, or below 0, from the least
  to the largest;
* one transparent value or colour, palettes and premultiplied colours become an opacity;
* the rotation a camera noted is carried out; of several frames the first is taken.

Notation: h, w pixels.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from geo3d.errors import FileFormatError, InputError, LimitError

MAX_PIXELS = 64_000_000
_DEPTHS = (8, 10, 12, 16)
# What Pillow's decoders and its reader of a camera's notes raise on damaged files.
_DECODER_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    EOFError,
    struct.error,
    UnidentifiedImageError,
)


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image of at most ``max_pixels`` as RGBA, with the rotation its camera noted.

    Raises:
        InputError: ``object_image.missing``.
        FileFormatError: ``object_image.unreadable``.
        LimitError: ``object_image.too_large``.
    """
    return as_rgba(_decoded(path, max_pixels))


def read_mask(path: str | Path, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Read which pixels of an image of ``size`` (width, height) are the object.

    The object is what is opaque, in a mask with opacity; else what is lighter than half of the
    mask's white.  A mask of the same shape in another size is resized.

    Raises:
        InputError: ``object_image.missing``, ``object_image.wrong_mask`` (another shape, or it
            shows nothing).
        FileFormatError: ``object_image.unreadable``.
        LimitError: ``object_image.too_large``.
    """
    mask = read_image(path)
    width, height = size
    # A size that was rounded after scaling is off by less than a pixel.
    if abs(mask.width * height - mask.height * width) > max(*size, *mask.size):
        raise InputError(
            "object_image.wrong_mask",
            f"The mask {path} has {mask.width} x {mask.height} pixels, the image {width} x "
            f"{height}.",
            "Give a mask of the same shape as the image.",
        )
    pixels = np.asarray(mask.resize(size, Image.Resampling.BOX))
    opaque = pixels[:, :, 3] > 127
    found = pixels[:, :, :3].max(axis=2) > 127 if opaque.all() else opaque
    if not found.any():
        raise InputError(
            "object_image.wrong_mask",
            f"The mask {path} marks no pixel.",
            "The object is white, or opaque where the rest is transparent.",
        )
    return found


def as_rgba(image: Image.Image) -> Image.Image:
    """Return an image of any mode as 8-bit RGBA.

    Raises:
        FileFormatError: ``object_image.unreadable`` (values that are not finite).
    """
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        alpha = np.full(values.shape, 255, np.uint8)
        clear = image.info.get("transparency")
        if isinstance(clear, int | float):
            alpha[values == clear] = 0
        grey = eight_bits(values)
        return Image.fromarray(np.dstack([grey, grey, grey, alpha]))
    if image.mode in ("CMYK", "YCbCr", "HSV", "LAB"):
        image = image.convert("RGB")
    elif image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")


def eight_bits(values: Shaped[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Return numbers of any kind as grey of 8 bits, see the module.

    Raises:
        FileFormatError: ``object_image.unreadable`` (values that are not finite).
    """
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise FileFormatError(
            "object_image.unreadable",
            "The image has values that are not finite numbers.",
            "Save it as PNG of 8 or 16 bits.",
        )
    low, high = float(numbers.min()), float(numbers.max())
    if low < 0 or high > 65535:
        scaled = (numbers - low) / (high - low) * 255
    elif not np.issubdtype(values.dtype, np.integer) and high <= 1:
        scaled = numbers * 255
    else:
        depth = next(d for d in _DEPTHS if high < 2**d)
        scaled = numbers * (255 / (2**depth - 1))
    return np.rint(scaled).astype(np.uint8)


def _decoded(path: str | Path, max_pixels: int) -> Image.Image:
    """Return the first frame of a file, upright."""
    if not Path(path).is_file():
        raise InputError("object_image.missing", f"There is no image {path}.", "Check the path.")
    try:
        with warnings.catch_warnings():
            # Pillow warns of what it decodes all the same: damaged notes, odd palettes.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height <= max_pixels:
                    image.load()
                    return _upright(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        pass
    except _DECODER_ERRORS as error:
        raise FileFormatError(
            "object_image.unreadable", f"{path} is no image that can be read.", "Save it as PNG."
        ) from error
    raise LimitError(
        "object_image.too_large",
        f"{path} has too many pixels.",
        f"Reduce it to at most {max_pixels:,} pixels.",
    )


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its camera noted; damaged notes turn nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except _DECODER_ERRORS:
        return image.copy()
