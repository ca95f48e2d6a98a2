"""Sets of images with masks of mortar: TopoMortar as published, and generated walls.

TopoMortar (Valverde et al. 2025) in a folder, names as published:

    train/{images,accurate,noisy,pseudo}/001.png   val/...   test/{images,accurate}/...
    dataset_types.txt       ID,group of every image
    splits.yaml             which images are for training (50), validation (20), test (350)
    splits_small.yaml       the same with 10 for training

The kind of label changes training and validation only; test labels are always the accurate ones.
The test set may be there in part: what is missing is named in `Dataset.missing`.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from jaxtyping import Bool, UInt8

from geo3d.errors import ConfigError, FileFormatError, InputError
from geo3d.segmentation.config import DataConfig
from geo3d.segmentation.images import read_image, read_label
from geo3d.synth.walls import GROUPS, brick_wall

LabelKind = Literal["accurate", "noisy", "pseudo"]
TrainingSize = Literal["large", "small"]

LABEL_KINDS = ("accurate", "noisy", "pseudo")
SIZES = ("large", "small")
_MAX_BYTES = 1 << 20
_ENTRY = re.compile(r"(?:dataset/)?(train|val|test)/images/([0-9A-Za-z_-]{1,64})\.png")


@dataclass(frozen=True, eq=False)
class Sample:
    """An image with its mask, in memory."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileItem:
    """An image and its label on disk."""

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
        if image.pixels.shape[:2] != label.mask.shape:
            sizes = " and ".join(
                f"{w} x {h}" for h, w in (image.pixels.shape[:2], label.mask.shape)
            )
            raise InputError(
                "dataset.unequal_sizes",
                f"Image and label {self.id} have different sizes, {sizes}.",
                f"Check {self.image} and {self.label}.",
            )
        notes = *(f"image: {n}" for n in image.notes), *(f"label: {n}" for n in label.notes)
        return Sample(image.pixels, label.mask, tuple(notes))


@dataclass(frozen=True)
class GeneratedItem:
    """A wall that `brick_wall` draws when it is asked for."""

    id: str
    group: str
    seed: int
    size: int
    """Side of the square image in pixels."""

    def load(self) -> Sample:
        """Draw the wall."""
        wall = brick_wall(self.seed, self.size, self.size, group=self.group)
        return Sample(wall.image, wall.mask)


Item = FileItem | GeneratedItem


@dataclass(frozen=True)
class Dataset:
    """What to train on, to follow the training with, and to test on."""

    name: str
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    missing: tuple[str, ...] = ()
    """Names of test images the split lists and the folder does not have."""


def read_topomortar(
    root: str | PathLike[str],
    labels: LabelKind = "accurate",
    size: TrainingSize = "large",
    *,
    test: Literal["present", "all"] = "present",
) -> Dataset:
    """Find the images of a TopoMortar folder; nothing is decoded yet.

    Args:
        root: the folder, or one that has it as ``dataset/``.
        labels: which labels training and validation use.
        size: 50 or 10 images for training.
        test: "present" leaves out test images that are not there and names them in ``missing``;
            "all" refuses a folder without them.

    Raises:
        InputError: ``dataset.no_folder``, ``dataset.missing_file``.
        FileFormatError: ``dataset.bad_split``, ``dataset.bad_groups``.
        ConfigError: ``dataset.unknown_choice``.
    """
    _check("labels", labels, LABEL_KINDS)
    _check("size", size, SIZES)
    _check("test", test, ("present", "all"))
    folder = _find_root(Path(root))
    groups = _read_groups(folder / "dataset_types.txt")
    split = _read_split(folder, size)
    found = {
        part: [_item(folder, part, name, labels, groups) for name in names]
        for part, names in split.items()
    }
    lost = {part: [i for i in items if not _is_whole(i)] for part, items in found.items()}
    _refuse_lost([*lost["train"], *lost["val"], *(lost["test"] if test == "all" else ())])
    here = tuple(i for i in found["test"] if i not in set(lost["test"]))
    missing = tuple(item.id for item in lost["test"])
    name = f"topomortar-{labels}-{size}"
    return Dataset(name, tuple(found["train"]), tuple(found["val"]), here, missing)


def generated_items(
    count: int, size: int = 256, seed: int = 0, groups: Sequence[str] = GROUPS[:1]
) -> tuple[GeneratedItem, ...]:
    """Return walls to be drawn, taking turns through ``groups``."""
    # Far apart, so that sets with neighbouring seeds share no wall.
    first = seed * 1_000_003
    return tuple(
        GeneratedItem(f"wall{seed}-{i:04d}", groups[i % len(groups)], first + i, size)
        for i in range(count)
    )


def generated_dataset(
    n_train: int = 24, n_val: int = 4, n_test: int = 14, size: int = 256, seed: int = 0
) -> Dataset:
    """Return a set of generated walls; its test part goes through all groups."""
    return Dataset(
        f"walls-{seed}",
        generated_items(n_train, size, 3 * seed),
        generated_items(n_val, size, 3 * seed + 1),
        generated_items(n_test, size, 3 * seed + 2, GROUPS),
    )


def open_dataset(config: DataConfig) -> Dataset:
    """Return the images that settings name.

    Without a folder they are generated walls; see `read_topomortar` for errors.
    """
    if not config.root:
        return generated_dataset(max(config.walls, 1), size=config.wall_side, seed=config.wall_seed)
    dataset = read_topomortar(config.root, config.labels, config.size)
    # Seeds apart from those of `generated_dataset`.
    walls = generated_items(config.walls, config.wall_side, 3 * config.wall_seed + 1000, GROUPS)
    name = f"{dataset.name}+{config.walls}walls" if walls else dataset.name
    return replace(dataset, name=name, train=(*dataset.train, *walls))


def samples_digest(samples: Sequence[Sample]) -> str:
    """Return a SHA-256 hex digest of the content of samples, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(str(sample.image.shape).encode())
        digest.update(np.ascontiguousarray(sample.image).tobytes())
        digest.update(np.packbits(sample.mask).tobytes())
    return digest.hexdigest()


def _find_root(root: Path) -> Path:
    for folder in (root, root / "dataset"):
        if (folder / "dataset_types.txt").is_file():
            return folder
    raise InputError(
        "dataset.no_folder",
        f"{root} is no TopoMortar folder: it has no dataset_types.txt.",
        "Name the folder that has train/, val/, test/ and dataset_types.txt.",
    )


def _read_groups(path: Path) -> Mapping[str, str]:
    rows = csv.reader(_read_text(path, "dataset.bad_groups").splitlines())
    table = dict(row for row in rows if len(row) == 2)
    unknown = set(table.values()) - {*GROUPS, "group"}
    if table.pop("ID", None) != "group" or not table or unknown:
        raise FileFormatError(
            "dataset.bad_groups",
            f"{path} is no table ID,group of known groups.",
            f"Groups: {', '.join(GROUPS)}.",
        )
    return table


def _read_split(folder: Path, size: TrainingSize) -> Mapping[str, list[str]]:
    """Return the names of the images by split, in the file's order."""
    stem = "splits" if size == "large" else "splits_small"
    names = [folder / f"{stem}{end}.yaml" for end in ("", "_subset")]
    path = next((name for name in names if name.is_file()), names[0])
    try:
        values: Any = yaml.safe_load(_read_text(path, "dataset.bad_split"))
        lists = next(iter(values.values()))
        split = {part: [_name(entry, part) for entry in lists[part]] for part in lists}
        if set(split) != {"train", "val", "test"}:
            raise ValueError("it needs the lists train, val and test")
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, StopIteration) as error:
        raise FileFormatError(
            "dataset.bad_split",
            f"{path} is no TopoMortar split: {' '.join(str(error).split())}.",
            "Take the file as published.",
        ) from error
    return split


def _name(entry: str, part: str) -> str:
    match = _ENTRY.fullmatch(entry)
    if not match or match[1] != part:
        raise ValueError(f"{entry!r} is no image of {part}")
    return match[2]


def _read_text(path: Path, code: str) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(code, f"{path} cannot be read.", "Is the folder whole?") from error


def _item(
    folder: Path, part: str, name: str, labels: LabelKind, groups: Mapping[str, str]
) -> FileItem:
    kind = "accurate" if part == "test" else labels
    group = groups.get(name)
    if group is None:
        raise FileFormatError(
            "dataset.bad_groups", f"Image {name} is in no group.", "See dataset_types.txt."
        )
    png = f"{name}.png"
    return FileItem(name, group, folder / part / "images" / png, folder / part / kind / png)


def _is_whole(item: FileItem) -> bool:
    return item.image.is_file() and item.label.is_file()


def _refuse_lost(items: Sequence[FileItem]) -> None:
    files = [path for item in items for path in (item.image, item.label) if not path.is_file()]
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        raise InputError(
            "dataset.missing_file",
            f"Files of the set are not there: {', '.join(map(str, files[:3]))}{more}.",
            "Copy the missing files.",
        )


def _check(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(
            "dataset.unknown_choice",
            f"There is no {name} {value!r}.",
            f"Choose one of: {', '.join(known)}.",
        )
