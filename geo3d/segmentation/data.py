"""Sets of images with masks: folders of any layout, TopoMortar as published, and drawn ones.

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
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from geo3d.errors import ConfigError, FileFormatError, Geo3dError, InputError
from geo3d.files import asset
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.segmentation.config import DataConfig
from geo3d.segmentation.folders import read_text, refuse_lost
from geo3d.segmentation.samples import (
    DRAWN,
    Dataset,
    FileItem,
    GeneratedItem,
    Item,
    Sample,
    samples_digest,
)
from geo3d.segmentation.survey import read_folder
from geo3d.segmentation.tables import topomortar_groups
from geo3d.synth.lines import GROUPS as LINE_GROUPS
from geo3d.synth.walls import GROUPS

__all__ = [
    "Dataset",
    "FileItem",
    "GeneratedItem",
    "Item",
    "Sample",
    "generated_dataset",
    "open_dataset",
    "read_topomortar",
    "samples_digest",
]

LabelKind = Literal["accurate", "noisy", "pseudo"]
TrainingSize = Literal["large", "small"]

LABEL_KINDS = ("accurate", "noisy", "pseudo")
SIZES = ("large", "small")
DIGESTS = "segmentation/topomortar_digests.csv"
"""ID and `pixel_digest` of images of TopoMortar, among the assets."""
_ENTRY = re.compile(r"(?:dataset/)?(train|val|test)/images/([0-9A-Za-z_-]{1,64})\.png")


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
    needed = [*lost["train"], *lost["val"], *(lost["test"] if test == "all" else ())]
    files = [path for item in needed for path in (item.image, item.label)]
    refuse_lost([path for path in files if not path.is_file()])
    here = tuple(i for i in found["test"] if i not in set(lost["test"]))
    missing = tuple(item.id for item in lost["test"])
    name = f"topomortar-{labels}-{size}"
    return Dataset(name, tuple(found["train"]), tuple(found["val"]), here, missing)


def generated_items(
    count: int,
    size: int = 256,
    seed: int = 0,
    groups: Sequence[str] = GROUPS[:1],
    what: str = "walls",
) -> tuple[GeneratedItem, ...]:
    """Return images to be drawn, taking turns through ``groups``."""
    # Far apart, so that sets with neighbouring seeds share no image.
    first = seed * 1_000_003
    name = what.removesuffix("s")
    return tuple(
        GeneratedItem(f"{name}{seed}-{i:04d}", groups[i % len(groups)], first + i, size, what)
        for i in range(count)
    )


def generated_dataset(
    n_train: int = 24,
    n_val: int = 4,
    n_test: int = 14,
    size: int = 256,
    seed: int = 0,
    what: str = "walls",
) -> Dataset:
    """Return a set of drawn images; its test part goes through all groups.

    Args:
        n_train, n_val, n_test: how many images.
        size: their side.
        seed: other images for another one.
        what: key of `geo3d.segmentation.samples.DRAWN`.

    Raises:
        ConfigError: ``dataset.unknown_choice``.
    """
    _check("kind of drawn data", what, tuple(DRAWN))
    groups = GROUPS if what == "walls" else LINE_GROUPS
    return Dataset(
        f"{what}-{seed}",
        generated_items(n_train, size, 3 * seed, what=what),
        generated_items(n_val, size, 3 * seed + 1, what=what),
        generated_items(n_test, size, 3 * seed + 2, groups, what=what),
        kind=DRAWN[what],
    )


def open_dataset(config: DataConfig, progress: ProgressCallback = ignore_progress) -> Dataset:
    """Return the images that settings name.

    A folder with dataset_types.txt, and no table of groups of one's own, is TopoMortar's; see
    `read_topomortar` and `geo3d.segmentation.survey.read_folder` for errors.  Without a folder the
    images are drawn.

    Raises:
        ConfigError: ``dataset.not_topomortar`` for kinds of labels, or walls, that only TopoMortar
            has.
    """
    if not config.root:
        count = max(config.walls, 1)
        return generated_dataset(count, size=config.wall_side, seed=config.wall_seed)
    root = Path(config.root)
    if config.groups or not is_topomortar_layout(root):
        if (config.labels, config.size, config.walls) != ("accurate", "large", 0):
            raise ConfigError(
                "dataset.not_topomortar",
                f"{root} is no TopoMortar folder, so it has no kinds of labels or sizes, and walls "
                "are no help.",
                "Leave labels, size and walls as they are.",
            )
        return read_folder(root, Path(config.groups) if config.groups else None, progress)
    dataset = read_topomortar(config.root, config.labels, config.size)
    # Seeds apart from those of `generated_dataset`.
    walls = generated_items(config.walls, config.wall_side, 3 * config.wall_seed + 1000, GROUPS)
    name = f"{dataset.name}+{config.walls}walls" if walls else dataset.name
    return replace(dataset, name=name, train=(*dataset.train, *walls))


def is_topomortar_layout(root: Path) -> bool:
    """Tell TopoMortar's layout, which others may use for their images, from other layouts."""
    return any((folder / "dataset_types.txt").is_file() for folder in (root, root / "dataset"))


def shows_topomortar(dataset: Dataset) -> bool:
    """Tell whether the test images are TopoMortar's own: published numbers may stand beside them.

    Names, groups and the content of every image whose digest comes with the package must agree;
    at least one such image must be there.
    """
    groups, known = topomortar_groups(), _known_digests()
    files = [item for item in dataset.test if isinstance(item, FileItem)]
    if len(files) != len(dataset.test) or not files:
        return False
    if any(groups.get(item.id) != item.group for item in files):
        return False
    compared = [item for item in files if item.id in known]
    try:
        return bool(compared) and all(pixel_digest(i.load().image) == known[i.id] for i in compared)
    except Geo3dError:
        return False


def pixel_digest(pixels: np.ndarray) -> str:
    """Return a digest of an image's content, whatever the file around it."""
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:32]


def _known_digests() -> dict[str, str]:
    with open(asset(DIGESTS), newline="", encoding="utf-8") as file:
        return dict(list(csv.reader(file))[1:])


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
    rows = csv.reader(read_text(path, "dataset.bad_groups").splitlines())
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
        values: Any = yaml.safe_load(read_text(path, "dataset.bad_split"))
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


def _check(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(
            "dataset.unknown_choice",
            f"There is no {name} {value!r}.",
            f"Choose one of: {', '.join(known)}.",
        )
