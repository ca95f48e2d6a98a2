"""Images and labels from files nobody vouches for, as plain 8-bit arrays.

The format is told from the content, and size in bytes and in pixels is checked before anything is
decoded.  What an image holds beyond 8-bit colour is converted by fixed rules, each of which leaves
a note:

* 16-bit values are divided by 257, so that 65535 becomes 255;
* transparency is laid over white;
* CMYK, palette, grey and two-valued images become RGB (Pillow's conversion);
* the rotation a camera noted down is carried out;
* of several frames the first is taken.

In a label 255 is mortar and 0 is brick; other values count as brick, as in the published code, and
are counted in a note.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from geo3d.errors import FileFormatError, InputError, LimitError
from geo3d.files import atomic_path

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
"""What is read."""
MORTAR = 255
_ORIENTATION = 0x0112
# What Pillow's decoders raise on damaged files.
DECODER_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class ImageLimits:
    """How large a file may be, checked before it is decoded."""

    max_bytes: int = 200 << 20
    max_pixels: int = 100_000_000


@dataclass(frozen=True, eq=False)
class RgbImage:
    """A colour image."""

    pixels: UInt8[np.ndarray, "h w 3"]
    notes: tuple[str, ...] = ()
    """What was converted, in words."""


@dataclass(frozen=True, eq=False)
class Label:
    """A mask of mortar."""

    mask: Bool[np.ndarray, "h w"]
    notes: tuple[str, ...] = ()
    """What is unusual about it, in words."""


def read_image(path: str | PathLike[str], limits: ImageLimits | None = None) -> RgbImage:
    """Read an image file as 8-bit RGB.

    Raises:
        InputError: ``image.missing``.
        LimitError: ``image.too_large``.
        FileFormatError: ``image.unreadable``, ``image.unsupported``.
    """
    image, notes = decode(Path(path), limits or ImageLimits())
    return RgbImage(_as_rgb(image, str(path), notes), tuple(notes))


def read_label(path: str | PathLike[str], limits: ImageLimits | None = None) -> Label:
    """Read a label file: `MORTAR` is foreground, everything else background.

    Raises:
        InputError: ``image.bad_label`` (colours, or no value that means anything), and the
            errors of `read_image`.
    """
    image, notes = decode(Path(path), limits or ImageLimits())
    return label_from_values(_as_grey(image, str(path), notes), str(path), notes)


def label_from_values(
    values: UInt8[np.ndarray, "h w"], name: str, notes: Sequence[str] = ()
) -> Label:
    """Return the mask of an array of label values, with notes on what is unusual.

    Raises:
        InputError: ``image.bad_label``.
    """
    mask, found = values == MORTAR, list(notes)
    odd = np.unique(values[(values != 0) & ~mask])
    if odd.size and not mask.any():
        raise InputError(
            "image.bad_label",
            f"{name} has no value {MORTAR}, but {_some(odd)}.",
            f"Labels hold 0 for brick and {MORTAR} for mortar; multiply 0/1 labels by {MORTAR}.",
        )
    if odd.size:
        count = int(np.isin(values, odd).sum())
        found.append(f"{count} pixels with values other than 0 and 255 ({_some(odd)}) are brick")
    if mask.all() or not mask.any():
        found.append("all mortar" if mask.all() else "no mortar")
    return Label(mask, tuple(found))


def save_mask(path: str | PathLike[str], mask: Bool[np.ndarray, "h w"]) -> Path:
    """Write a mask as an 8-bit grey PNG with values 0 and 255, atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(mask.astype(np.uint8) * MORTAR).save(temporary, format="PNG")
    return Path(path)


def decode(path: Path, limits: ImageLimits) -> tuple[Image.Image, list[str]]:
    """Return the decoded first frame, upright, and notes."""
    data = read_bytes(path, limits.max_bytes)
    # Our own limit on pixels, checked on the header, takes the place of Pillow's warning.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise _too_large(path, "far more pixels than allowed", limits.max_pixels) from error
        except UnidentifiedImageError as error:
            raise _unreadable(path, "it is none of " + ", ".join(FORMATS)) from error
        except DECODER_ERRORS as error:
            raise _unreadable(path, str(error) or type(error).__name__) from error
        if (count := image.width * image.height) > limits.max_pixels:
            raise _too_large(path, f"{count} pixels", limits.max_pixels)
        try:
            return _load(image)
        except DECODER_ERRORS as error:
            raise _unreadable(path, str(error) or type(error).__name__) from error


def _load(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Decode the first frame and turn it upright; say what was done."""
    notes: list[str] = []
    if (count := getattr(image, "n_frames", 1)) > 1:
        notes.append(f"first of {count} frames")
    is_deep = any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    if is_deep and image.mode in ("RGB", "RGBA"):
        notes.append("16 bits per channel reduced to 8")
    image.load()
    if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
        notes.append("turned upright as the camera noted")
        return ImageOps.exif_transpose(image), notes
    return image, notes


def read_bytes(path: Path, limit: int) -> bytes:
    """Return what a file holds.

    Raises:
        InputError: ``image.missing``.
        LimitError: ``image.too_large`` for more bytes than the limit.
    """
    try:
        if not path.is_file():
            raise InputError("image.missing", f"There is no image {path}.", "Check the path.")
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise InputError(
            "image.missing", f"{path} cannot be read: {error.strerror}.", "Check the path."
        ) from error
    if len(data) > limit:
        raise _too_large(path, f"more than {limit} bytes", limit)
    return data


def _as_rgb(image: Image.Image, name: str, notes: list[str]) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode.startswith("I"):
        grey = _reduced(image, name, notes)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise _unsupported(name, "floating-point values")
    if image.has_transparency_data:
        notes.append("transparency laid over white")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode != "RGB":
        notes.append(f"converted from {image.mode}")
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _as_grey(image: Image.Image, name: str, notes: list[str]) -> UInt8[np.ndarray, "h w"]:
    if image.mode.startswith("I"):
        return _reduced(image, name, notes)
    if image.mode in ("L", "1"):
        return np.array(image.convert("L"), dtype=np.uint8)
    colour = _as_rgb(image, name, notes)
    if not (colour == colour[..., :1]).all():
        raise InputError(
            "image.bad_label",
            f"{name} is a colour image, not a label.",
            f"Labels are grey: 0 for brick and {MORTAR} for mortar.",
        )
    return np.ascontiguousarray(colour[..., 0])


def _reduced(image: Image.Image, name: str, notes: list[str]) -> UInt8[np.ndarray, "h w"]:
    values = np.array(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise _unsupported(name, "32-bit values")
    notes.append("16 bits per channel reduced to 8")
    return ((values + 128) // 257).astype(np.uint8)


def _some(values: np.ndarray) -> str:
    shown = ", ".join(str(v) for v in values[:5])
    return f"{shown}, ..." if len(values) > 5 else shown


def _too_large(path: Path, what: str, limit: int) -> LimitError:
    hint = f"Make it smaller; at most {limit:,} are read."
    return LimitError("image.too_large", f"{path} has {what}.", hint)


def _unreadable(path: Path, why: str) -> FileFormatError:
    return FileFormatError(
        "image.unreadable",
        f"{path} cannot be read as an image: {why}.",
        "Open it in an image program and save it as PNG.",
    )


def _unsupported(name: str, what: str) -> FileFormatError:
    return FileFormatError(
        "image.unsupported", f"{name} holds {what}.", "Convert it to 8 or 16 bits per channel."
    )
