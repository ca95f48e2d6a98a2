"""Images and label maps of any kind: as the file holds them, in two or three dimensions.

`geo3d.segmentation.images` makes everything 8-bit colour and every label a mask of mortar, as
TopoMortar wants it.  Here nothing is reduced: grey stays grey, 16 bits stay 16 bits, a label map
keeps its numbers.

    PNG JPEG BMP TIFF WEBP PPM GIF      images: grey or colour of 8 bits, grey of 16 and 32 bits
    NIfTI (.nii, .nii.gz)               volumes with their spacing; needs nibabel (extra "medical")
    .npy                                arrays (h, w), (d, h, w); a last axis of up to 4 is channels
    TIFF of several grey pages          volumes (d, h, w)

Axes of an image are (*space, c); a NIfTI volume keeps the order its file has.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, Shaped
from PIL import Image

from geo3d.errors import BackendUnavailable, FileFormatError, InputError, LimitError
from geo3d.npz import BROKEN, old_headers
from geo3d.segmentation.images import DECODER_ERRORS, ImageLimits, decode, read_bytes

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif")
VOLUMES = (".nii.gz", ".nii", ".npy")
ENDINGS = (*VOLUMES, *PICTURES)
"""What is read, by the end of the name; longer endings first."""
MAX_LABEL = 254
"""Largest number of a class; 255 is kept for pixels that do not count."""
_COLOUR_CHANNELS = 4


@dataclass(frozen=True, eq=False)
class Raster:
    """An image or volume."""

    values: Shaped[np.ndarray, "*space c"]
    """uint8, uint16 or float32, finite."""
    spacing: tuple[float, ...] = ()
    """Size of a pixel along each axis, in the file's unit; empty where it does not say."""
    notes: tuple[str, ...] = ()


def ending_of(name: str) -> str:
    """Return the ending of a file's name that tells its format, "" if it is none of `ENDINGS`."""
    return next((end for end in ENDINGS if name.lower().endswith(end)), "")


def stem_of(name: str) -> str:
    """Return a file's name without that ending."""
    return name[: len(name) - len(ending_of(name))]


def read_raster(path: str | PathLike[str], limits: ImageLimits | None = None) -> Raster:
    """Read an image or volume.

    Raises:
        InputError: ``image.missing``.
        LimitError: ``image.too_large``.
        FileFormatError: ``image.unreadable``, ``image.unsupported``, ``image.not_finite``.
        BackendUnavailable: ``backend.nibabel_missing`` for NIfTI without nibabel.
    """
    file, limits = Path(path), limits or ImageLimits()
    ending = ending_of(file.name)
    if ending.startswith(".nii"):
        return _read_nifti(file, limits)
    if ending == ".npy":
        return Raster(_numbers(_read_array(file, limits), file))
    if (stack := _stack(file, ending, limits)) is not None:
        return Raster(_numbers(stack[..., None], file))
    image, notes = decode(file, limits)
    return Raster(_numbers(_pixels(image, notes), file), (), tuple(notes))


def read_labels(path: str | PathLike[str]) -> Raster:
    """Read a label map: one whole number per pixel, (*space, 1), in the smallest type that fits.

    A palette image whose colours are greys holds those greys; one in colour holds its indices.

    Raises:
        InputError: ``dataset.bad_label`` for colours or fractions, and what `read_raster` raises.
    """
    file, limits = Path(path), ImageLimits()
    ending = ending_of(file.name)
    if ending in VOLUMES or _stack(file, ending, limits) is not None:
        found = read_raster(file, limits)
        return replace(found, values=_whole(found.values, file))
    image, notes = decode(file, limits)
    if image.mode == "P":
        palette = np.array(image.getpalette() or [], dtype=np.uint8).reshape(-1, 3)
        indices = np.array(image)
        used = palette[np.unique(indices)]
        is_grey = bool((used == used[:, :1]).all())
        values = palette[:, 0][indices] if is_grey else indices
        return Raster(values[..., None], (), tuple(notes))
    values = _pixels(image, notes)
    colours = values[..., :3]
    if not (colours == colours[..., :1]).all():
        raise InputError(
            "dataset.bad_label",
            f"{file} is a colour image, not a label map.",
            "A label map holds one number per pixel: 0 for background, 1, 2, ... for classes "
            "(or 255 for a single one), or a palette.",
        )
    return Raster(_whole(colours[..., :1], file), (), tuple(notes))


def save_labels(path: Path, labels: Integer[np.ndarray, "*space"], spacing: Any = ()) -> Path:
    """Write a label map: a PNG of an image, NIfTI of a volume (``.npy`` without nibabel).

    Args:
        path: name of the file without ending.
        labels: numbers of classes.
        spacing: size of a voxel, for NIfTI.
    """
    from geo3d.files import atomic_path

    values = labels.astype(np.uint8)
    if values.ndim == 2:
        with atomic_path(path.with_name(path.name + ".png")) as temporary:
            Image.fromarray(values).save(temporary, format="PNG")
        return path.with_name(path.name + ".png")
    try:
        import nibabel
    except ImportError:
        with atomic_path(path.with_name(path.name + ".npy")) as temporary:
            np.save(temporary, values, allow_pickle=False)
        return path.with_name(path.name + ".npy")
    affine = np.diag([*(spacing or (1.0, 1.0, 1.0)), 1.0])
    target = path.with_name(path.name + ".nii.gz")
    with atomic_path(target) as temporary:
        data = nibabel.Nifti1Image(values, affine).to_bytes()
        temporary.write_bytes(_zipped(data))
    return target


def save_volume(path: Path, values: Integer[np.ndarray, "d h w"], source: Path) -> Path:
    """Write a volume like another file: NIfTI with its place in space, else ``.npy``.

    Args:
        path: name of the file without ending.
        values: uint8 or uint16.
        source: the volume it belongs to.
    """
    from geo3d.files import atomic_path

    if not ending_of(source.name).startswith(".nii"):
        target = path.with_name(path.name + ".npy")
        with atomic_path(target) as temporary:
            np.save(temporary, values, allow_pickle=False)
        return target
    import nibabel

    known: Any = nibabel.load(source)
    target = path.with_name(path.name + ".nii.gz")
    image = nibabel.Nifti1Image(values, known.affine)
    image.header.set_xyzt_units(*known.header.get_xyzt_units())
    with atomic_path(target) as temporary:
        temporary.write_bytes(_zipped(image.to_bytes()))
    return target


def _zipped(data: bytes) -> bytes:
    import gzip

    # Without the time of day, so that equal labels are equal files.
    return gzip.compress(data, mtime=0)


def _stack(file: Path, ending: str, limits: ImageLimits) -> Shaped[np.ndarray, "d h w"] | None:
    """Return the grey pages of a TIFF as a volume; None where it has one page or colours."""
    if ending not in (".tif", ".tiff") or not file.is_file():
        return None
    try:
        with Image.open(file, formats=("TIFF",)) as image:
            count = getattr(image, "n_frames", 1)
            if count < 2 or not (image.mode == "L" or image.mode.startswith(("I", "F"))):
                return None
            if count * image.width * image.height > limits.max_pixels:
                raise LimitError(
                    "image.too_large",
                    f"{file} has {count * image.width * image.height} voxels.",
                    f"Cut it, or raise the limit ({limits.max_pixels}).",
                )
            pages = []
            for page in range(count):
                image.seek(page)
                pages.append(np.array(image))
    except LimitError:
        raise
    except DECODER_ERRORS as error:
        raise _unreadable(file, " ".join(str(error).split())) from error
    if len({page.shape for page in pages}) > 1:
        raise _unreadable(file, "its pages have different sizes")
    return np.stack(pages)


def _pixels(image: Image.Image, notes: list[str]) -> Shaped[np.ndarray, "h w c"]:
    """Return the pixels as the file holds them; transparency and CMYK become colour."""
    if image.mode in ("1", "L") or image.mode.startswith("I") or image.mode == "F":
        values = np.array(image.convert("L") if image.mode == "1" else image)
        return values[..., None]
    if image.mode == "RGB":
        return np.array(image)
    if image.has_transparency_data:
        rgba = np.array(image.convert("RGBA"))
        if (rgba[..., 3] == 255).all():
            return rgba[..., :3]
        notes.append("transparency laid over white")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    elif image.mode != "P":
        notes.append(f"converted from {image.mode}")
    return np.array(image.convert("RGB"))


def _numbers(values: np.ndarray, file: Path) -> Shaped[np.ndarray, "*space c"]:
    """Return values in one of three types."""
    if values.dtype == np.uint8 or values.dtype == np.uint16:
        return values
    if values.dtype.kind not in "biuf":
        raise FileFormatError(
            "image.unsupported", f"{file} holds {values.dtype} values.", "Save it as numbers."
        )
    if not np.isfinite(values).all():
        raise FileFormatError(
            "image.not_finite",
            f"{file} holds NaN or infinite values.",
            "Set them to a number that stands for no signal.",
        )
    if values.dtype.kind != "f" and values.min() >= 0 and values.max() <= 65535:
        return values.astype(np.uint8 if values.max() <= 255 else np.uint16)
    return values.astype(np.float32)


def _whole(values: np.ndarray, file: Path) -> Integer[np.ndarray, "*space c"]:
    if values.dtype.kind == "f":
        if not (values == np.rint(values)).all():
            raise InputError(
                "dataset.bad_label",
                f"{file} holds fractions, not labels.",
                "A label map holds one whole number per pixel; probabilities need a threshold.",
            )
        values = values.astype(np.int64)
    return values


def _read_nifti(file: Path, limits: ImageLimits) -> Raster:
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
    except ImportError as error:
        raise BackendUnavailable(
            "backend.nibabel_missing",
            f"{file.name} is NIfTI, which nibabel reads, and nibabel is not installed.",
            'pip install "geo3d[medical]"',
        ) from error
    if not file.is_file():
        raise InputError("image.missing", f"There is no image {file}.", "Check the path.")
    try:
        image: Any = nibabel.load(file)
        shape = tuple(int(n) for n in image.shape)
        if math.prod(shape) > limits.max_pixels:
            raise LimitError(
                "image.too_large",
                f"{file} has {math.prod(shape)} voxels.",
                f"Cut it, or raise the limit ({limits.max_pixels}).",
            )
        if len(shape) not in (2, 3, 4) or 0 in shape:
            raise ValueError(f"it has the axes {shape}")
        values = np.asanyarray(image.dataobj)
        spacing = tuple(float(v) for v in image.header.get_zooms()[:3])
    except LimitError:
        raise
    except (ImageFileError, OSError, EOFError, ValueError, TypeError, LookupError) as error:
        raise _unreadable(file, " ".join(str(error).split()) or type(error).__name__) from error
    except Exception as error:
        # zlib's own error, and what a damaged header makes nibabel raise.
        raise _unreadable(file, f"{type(error).__name__}: {error}") from error
    while values.ndim > 2 and values.shape[-1] == 1:
        # A single slice or a single channel.
        values = values[..., 0]
    values = values if values.ndim == 4 else values[..., None]
    if values.dtype.kind == "V":
        values = np.stack([values[..., 0][name] for name in values.dtype.names or ()], axis=-1)
    native = values.astype(values.dtype.newbyteorder("="))
    return Raster(_numbers(native, file), spacing[: native.ndim - 1])


def _read_array(file: Path, limits: ImageLimits) -> Shaped[np.ndarray, "*space c"]:
    data = read_bytes(file, max(limits.max_bytes, 8 * limits.max_pixels))
    try:
        with old_headers():
            values = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, *BROKEN) as error:
        raise _unreadable(file, " ".join(str(error).split())) from error
    if not isinstance(values, np.ndarray) or values.ndim not in (2, 3, 4) or values.size == 0:
        raise _unreadable(file, "it is no array of two to four axes")
    has_channels = values.ndim == 4 or (values.ndim == 3 and values.shape[-1] <= _COLOUR_CHANNELS)
    return values if has_channels else values[..., None]


def _unreadable(file: Path, why: str) -> FileFormatError:
    return FileFormatError(
        "image.unreadable",
        f"{file} cannot be read: {why}.",
        "Open it in the program that made it and save it again.",
    )
