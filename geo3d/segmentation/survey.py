"""What is in the files of a folder: every image is looked at once, before anything is trained.

From the label maps follow the classes, unless ``dataset.json`` names them:

* one value beside 0: one class, whatever the value (1 and 255 are usual);
* 0, 1, ..., k and 255: k classes, and 255 marks pixels that do not count;
* other values: a class each, in order of the values.

Everything that cannot be read is named together, and what is unusual is said once per kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geo3d.errors import FileFormatError, Geo3dError, InputError
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.segmentation.folders import Folder, Found, find_images
from geo3d.segmentation.kinds import IGNORED, DataKind
from geo3d.segmentation.rasters import MAX_LABEL
from geo3d.segmentation.samples import Dataset, RasterItem, grouped_notes

MOST_CLASSES = 64
"""More values than this are no classes: a label map that was saved as JPEG, or an image."""
_COLOUR = 3


@dataclass
class _Seen:
    """What the files have in common."""

    values: set[int] = field(default_factory=set)
    channels: set[int] = field(default_factory=set)
    dimensions: set[int] = field(default_factory=set)
    spacings: set[tuple[float, ...]] = field(default_factory=set)
    notes: list[tuple[str, str]] = field(default_factory=list)
    errors: list[Geo3dError] = field(default_factory=list)


def read_folder(
    root: Path, groups: Path | None = None, progress: ProgressCallback = ignore_progress
) -> Dataset:
    """Open a folder of images and masks of any layout that `geo3d.segmentation.folders` knows.

    Raises:
        InputError: ``dataset.unreadable`` for several files, the error of a single one;
            ``dataset.unequal_channels``, ``dataset.unequal_dimensions``,
            ``dataset.too_many_labels``, ``dataset.no_foreground``; and those of `find_images`.
    """
    folder = find_images(root, groups)
    everything = [item for items in folder.parts.values() for item in items]
    seen = _look(everything, progress)
    _refuse(seen.errors, len(everything))
    kind, classes = _kind(folder, seen)
    parts = {
        part: tuple(_item(found, classes, kind.channels) for found in items)
        for part, items in folder.parts.items()
    }
    notes = list(grouped_notes(seen.notes))
    if kind.channels > min(seen.channels):
        notes.append("grey images among colour ones are made colour")
    if len(seen.spacings) > 1:
        notes.append("voxels of unequal size are taken as they are: resample for best results")
    if IGNORED in classes.values() and not folder.labels:
        notes.append("pixels with label 255 count neither in training nor in measuring")
    return Dataset(
        folder.name,
        parts["train"],
        parts["val"],
        parts["test"],
        folder.missing,
        kind,
        tuple(notes),
    )


def _look(items: Sequence[Found], progress: ProgressCallback) -> _Seen:
    seen = _Seen()
    for number, found in enumerate(items):
        report(progress, "looking at images", number, len(items))
        try:
            image, label = _item(found, {}, 0).read()
            _check_inside(found)
        except Geo3dError as error:
            seen.errors.append(error)
            continue
        values = np.unique(label.values)
        if len(values) > MOST_CLASSES or values[0] < 0 or values[-1] > 65535:
            seen.errors.append(_too_many(found.label, len(values)))
            continue
        seen.values |= {int(v) for v in values}
        seen.channels.add(image.values.shape[-1])
        seen.dimensions.add(image.values.ndim - 1)
        if image.spacing:
            seen.spacings.add(tuple(round(s, 4) for s in image.spacing))
        seen.notes += [(found.id, note) for note in (*image.notes, *label.notes)]
    return seen


def _check_inside(found: Found) -> None:
    if found.inside is not None and not found.inside.is_file():
        raise InputError("image.missing", f"There is no image {found.inside}.", "Check the path.")


def _item(found: Found, classes: Mapping[int, int], channels: int) -> RasterItem:
    return RasterItem(
        found.id, found.group, found.images, found.label, classes, channels, found.inside
    )


def _refuse(errors: Sequence[Geo3dError], total: int) -> None:
    """Raise one error for all files that cannot be used."""
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    shown = "  ".join(error.message for error in errors[:3])
    more = f"  And {len(errors) - 3} more." if len(errors) > 3 else ""
    hints = dict.fromkeys(error.hint for error in errors if error.hint)
    raise InputError(
        "dataset.unreadable",
        f"{len(errors)} of {total} images cannot be used.  {shown}{more}",
        "  ".join(list(hints)[:2]),
    )


def _too_many(path: Path, count: int) -> FileFormatError:
    return FileFormatError(
        "dataset.too_many_labels",
        f"{path} holds {count} different values, or values that number no class.",
        f"A label map has at most {MOST_CLASSES} classes; JPEG blurs them, so save it as PNG.",
    )


def _kind(folder: Folder, seen: _Seen) -> tuple[DataKind, dict[int, int]]:
    """Return what the images are like, and file value to class number."""
    if len(seen.dimensions) > 1:
        raise InputError(
            "dataset.unequal_dimensions",
            f"{folder.name} holds images and volumes.",
            "Train on them apart.",
        )
    if len(seen.channels) > 1 and seen.channels != {1, _COLOUR}:
        counts = ", ".join(map(str, sorted(seen.channels)))
        raise InputError(
            "dataset.unequal_channels",
            f"The images of {folder.name} have different numbers of channels: {counts}.",
            "Every image needs the same ones.",
        )
    classes, regions, numbers = _named(folder.labels) if folder.labels else _guessed(seen.values)
    if strange := sorted(seen.values - set(numbers)):
        raise InputError(
            "dataset.unknown_label",
            f"Labels of {folder.name} have the value {strange[0]}, which dataset.json does not "
            "name.",
            f"It names {', '.join(map(str, sorted(numbers)))}.",
        )
    held = {label for region in regions for label in region} or set(numbers.values()) - {0}
    if not any(numbers[v] in held - {IGNORED} for v in seen.values):
        raise InputError(
            "dataset.no_foreground",
            f"No label of {folder.name} has a pixel of any class.",
            "0 is the background, 1, 2, ... (or 255 for a single class) are classes.",
        )
    spacing = next(iter(seen.spacings)) if len(seen.spacings) == 1 else ()
    dimensions = next(iter(seen.dimensions))
    kind = DataKind(classes, regions, max(seen.channels), dimensions, spacing)
    return kind, numbers


_Classes = tuple[tuple[str, ...], tuple[tuple[int, ...], ...], dict[int, int]]


def _guessed(values: set[int]) -> _Classes:
    """Return classes from the values alone."""
    shown = sorted(values - {0})
    rest = [v for v in shown if v != IGNORED]
    numbers = {0: 0}
    # 255 beside 1, 2, ... k is the usual mark of pixels that do not count.
    if IGNORED in shown and rest and rest == list(range(1, len(rest) + 1)):
        numbers[IGNORED] = IGNORED
        shown = rest
    numbers |= {value: k for k, value in enumerate(shown, 1)}
    if len(shown) == 1:
        return ("background", "foreground"), (), numbers
    return ("background", *(f"class {v}" for v in shown)), (), numbers


def _named(labels: Mapping[str, Any]) -> _Classes:
    """Return the classes or regions of a dataset.json."""
    named = {name: held for name, held in labels.items() if name not in ("background", "ignore")}
    try:
        sets = {
            name: tuple(int(v) for v in (held if isinstance(held, list) else [held]))
            for name, held in named.items()
        }
        every = sorted({v for held in sets.values() for v in held})
        ignored = labels.get("ignore")
        is_usable = bool(every) and 0 < every[0] and every[-1] <= MAX_LABEL
    except (TypeError, ValueError):
        every, ignored, is_usable = [], None, False
    if not is_usable:
        raise FileFormatError(
            "dataset.bad_json",
            "The labels of dataset.json are not numbers from 1 to 254, or lists of such numbers.",
            'Write "labels": {"background": 0, "vessel": 1}.',
        )
    numbers = {0: 0} | ({int(ignored): IGNORED} if ignored is not None else {})
    if any(isinstance(held, list) for held in named.values()):
        return tuple(sets), tuple(sets.values()), numbers | {v: v for v in every}
    order = sorted(sets.items(), key=lambda entry: entry[1])
    numbers |= {held[0]: k for k, (_, held) in enumerate(order, 1)}
    return ("background", *(name for name, _ in order)), (), numbers


def check_items(dataset: Dataset) -> tuple[str, ...]:
    """Read every image of a set once; return what is unusual, one line per kind.

    Raises:
        InputError: ``dataset.unreadable`` for several files, the error of a single one.
    """
    items = (*dataset.train, *dataset.val, *dataset.test)
    notes, errors = [], []
    for item in items:
        try:
            notes += [(item.id, note) for note in item.load().notes]
        except Geo3dError as error:
            errors.append(error)
    _refuse(errors, len(items))
    return grouped_notes(notes)
