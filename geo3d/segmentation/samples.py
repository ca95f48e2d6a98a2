"""An image with its labels, where it comes from, and sets of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from geo3d.errors import InputError
from geo3d.segmentation.images import read_image, read_label
from geo3d.segmentation.kinds import IGNORED, WALLS, DataKind
from geo3d.segmentation.rasters import Raster, read_labels, read_raster
from geo3d.synth.lines import road_map, tube_volume, vessel_image
from geo3d.synth.walls import brick_wall


@dataclass(frozen=True, eq=False)
class Sample:
    """An image with its mask, in memory."""

    image: Shaped[np.ndarray, "*space c"]
    """Colour or grey, 8 bits or more; (h, w, c) or (d, h, w, c)."""
    mask: Shaped[np.ndarray, "*space"]
    """True on the one class there is, or a label map with `IGNORED` where nothing counts."""
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> UInt8[np.ndarray, "*space"]:
        """The mask as a label map."""
        return self.mask.astype(np.uint8)

    @property
    def counts(self) -> Bool[np.ndarray, "*space"] | None:
        """True on pixels that count; None if all do."""
        if self.mask.dtype == bool or not (ignored := self.mask == IGNORED).any():
            return None
        return ~ignored


@dataclass(frozen=True)
class FileItem:
    """A colour image and its label of mortar on disk."""

    id: str
    """Name of the image, e.g. "071", leading zeros included."""
    group: str
    """Either "indistr" or the kind of shift, see `geo3d.synth.walls.GROUPS`."""
    image: Path
    label: Path

    def load(self) -> Sample:
        """Read both files.

        Raises:
            InputError: ``dataset.unequal_sizes``; errors of reading images and labels.
        """
        image, label = read_image(self.image), read_label(self.label)
        _check_sizes(self.id, image.pixels.shape[:2], label.mask.shape, (self.image, self.label))
        notes = *(f"image: {n}" for n in image.notes), *(f"label: {n}" for n in label.notes)
        return Sample(image.pixels, label.mask, tuple(notes))


@dataclass(frozen=True)
class RasterItem:
    """An image or volume of any kind and its label map on disk."""

    id: str
    group: str
    images: tuple[Path, ...]
    """Files whose channels are put one after the other."""
    label: Path
    classes: Mapping[int, int] = field(default_factory=dict, hash=False)
    """Number in the file to number of the class, `IGNORED` for none."""
    channels: int = 0
    """Of the set: grey images of a set that has colour are made colour; 0 leaves them as are."""
    inside: Path | None = None
    """Mask of the pixels that count (a field of view), if not all do."""

    def load(self) -> Sample:
        """Read the files.

        Raises:
            InputError: ``dataset.unequal_sizes``, ``dataset.unequal_channels``,
                ``dataset.unknown_label``; errors of `read_raster` and `read_labels`.
        """
        image, label = self.read()
        numbers = label.values[..., 0]
        found = np.full(numbers.shape, IGNORED, np.uint8)
        known = np.zeros(numbers.shape, bool)
        for number, label_class in self.classes.items():
            at = numbers == number
            found[at], known[at] = label_class, True
        if not known.all():
            strange = sorted({int(v) for v in numbers[~known]})
            raise InputError(
                "dataset.unknown_label",
                f"{self.label} has the value {strange[0]}, which is no class.",
                f"Classes have the values {', '.join(map(str, self.classes))}.",
            )
        if self.inside is not None:
            inside = read_labels(self.inside).values[..., 0] > 0
            _check_sizes(self.id, inside.shape, found.shape, (self.inside, self.label))
            found[~inside] = IGNORED
        is_plain = not (found == IGNORED).any() and set(self.classes.values()) <= {0, 1, IGNORED}
        values = image.values
        if self.channels > values.shape[-1] == 1:
            values = np.repeat(values, self.channels, axis=-1)
        notes = *(f"image: {n}" for n in image.notes), *(f"label: {n}" for n in label.notes)
        return Sample(values, found.astype(bool) if is_plain else found, tuple(notes))

    def read(self) -> tuple[Raster, Raster]:
        """Return image and label map as their files hold them, of one size.

        Raises:
            InputError: see `load`.
        """
        parts = [read_raster(path) for path in self.images]
        sizes = [part.values.shape[:-1] for part in parts]
        for path, size in zip(self.images, sizes, strict=True):
            _check_sizes(self.id, size, sizes[0], (path, self.images[0]))
        values = np.concatenate([part.values for part in parts], axis=-1)
        label = read_labels(self.label)
        if label.values.shape[-1] != 1:
            raise InputError(
                "dataset.bad_label",
                f"{self.label} holds {label.values.shape[-1]} numbers per pixel.",
                "A label map holds one; overlapping classes are regions, see dataset.json.",
            )
        _check_sizes(self.id, sizes[0], label.values.shape[:-1], (self.images[0], self.label))
        notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
        spacing = parts[0].spacing or label.spacing
        return Raster(values, spacing, notes), label


@dataclass(frozen=True)
class GeneratedItem:
    """An image that is drawn when it is asked for."""

    id: str
    group: str
    seed: int
    size: int
    """Side of the square image in pixels, or of the cubic volume in voxels."""
    what: str = "walls"
    """Key of `DRAWN`."""

    def load(self) -> Sample:
        """Draw the image."""
        drawn = _DRAWERS[self.what](self)
        return Sample(drawn.image, drawn.mask)


_DRAWERS: Mapping[str, Callable[[GeneratedItem], Any]] = {
    "walls": lambda i: brick_wall(i.seed, i.size, i.size, group=i.group),
    "vessels": lambda i: vessel_image(i.seed, i.size, i.size, group=i.group),
    "roads": lambda i: road_map(i.seed, i.size, i.size, group=i.group),
    "tubes": lambda i: tube_volume(i.seed, i.size, group=i.group),
}
DRAWN: Mapping[str, DataKind] = {
    "walls": WALLS,
    "vessels": DataKind(("background", "vessel")),
    "roads": DataKind(("background", "road")),
    "tubes": DataKind(("background", "tube"), channels=1, dimensions=3),
}
"""Kinds of data that are drawn."""

Item = FileItem | RasterItem | GeneratedItem


@dataclass(frozen=True)
class Dataset:
    """What to train on, to follow the training with, and to test on."""

    name: str
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    missing: tuple[str, ...] = ()
    """Names of test images that are listed and not there, or have no label."""
    kind: DataKind = WALLS
    """What the images are like."""
    notes: tuple[str, ...] = ()
    """What there is to know about the files, one line each."""


def samples_digest(samples: Sequence[Sample]) -> str:
    """Return a SHA-256 hex digest of the content of samples, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(str(sample.image.shape).encode())
        digest.update(np.ascontiguousarray(sample.image).tobytes())
        is_mask = sample.mask.dtype == bool
        digest.update((np.packbits(sample.mask) if is_mask else sample.mask).tobytes())
    return digest.hexdigest()


def grouped_notes(notes: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return one line per kind of note from (name of the image, note) pairs."""
    found: dict[str, list[str]] = {}
    for name, note in notes:
        # Notes differ in counts only.
        found.setdefault(note, []).append(name)
    lines = []
    for note, names in found.items():
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        which = f"{len(names)} images ({shown})" if len(names) > 1 else names[0]
        lines.append(f"{which}: {note}")
    return tuple(lines)


def _check_sizes(
    name: str, one: tuple[int, ...], other: tuple[int, ...], files: tuple[Path, Path]
) -> None:
    if tuple(one) != tuple(other):
        sizes = " and ".join(" x ".join(map(str, reversed(size))) for size in (one, other))
        raise InputError(
            "dataset.unequal_sizes",
            f"Image and label {name} have different sizes, {sizes}.",
            f"Check {files[0]} and {files[1]}.",
        )
