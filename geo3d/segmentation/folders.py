"""Folders of images and masks as people have them: which image goes with which mask, and where.

    images/ and masks/ (or labels/)      a.png, b.tif ...; subfolders of images/ are groups
    train/ val/ test/ of such folders    a split of one's own; else one is drawn from the names
    imagesTr/ labelsTr/ dataset.json     nnU-Net (imagesTs/ and labelsTs/ are the test images)
    training/ test/ with 1st_manual/     DRIVE, with its fields of view in mask/

Beside images/ may lie ``groups.csv`` (ID,group) or ``groups.yaml`` (group: [IDs]), ``splits.yaml``
or nnU-Net's ``splits_final.json`` (its first fold), and a ``dataset.json`` with nnU-Net's
``labels``, which names classes and regions and may say which label is ignored.

Nothing is decoded here; `geo3d.segmentation.survey` looks into the files.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from geo3d.errors import FileFormatError, InputError
from geo3d.segmentation.rasters import ENDINGS, ending_of, stem_of

ALL = "all"
"""The group of images that are in none."""
MASKS = ("masks", "labels", "mask", "label", "annotations", "groundtruth", "gt")
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
VAL_SHARE, TEST_SHARE = 0.15, 0.25
_LABEL_SUFFIX = re.compile(
    r"[_-](mask|masks|label|labels|seg|segmentation|gt|manual\d*|annotation)$"
)
_IMAGE_SUFFIX = re.compile(r"[_-](image|img|sat|rgb)$")
_CHANNEL = re.compile(r"(.*)_(\d{4})$")
_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Found:
    """An image and its label."""

    id: str
    group: str
    images: tuple[Path, ...]
    label: Path
    inside: Path | None = None


@dataclass(frozen=True)
class Folder:
    """What lies in a folder."""

    name: str
    parts: Mapping[str, tuple[Found, ...]]
    """Images by "train", "val", "test"."""
    missing: tuple[str, ...] = ()
    """Test images without a label."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Of dataset.json: class or region to its number or numbers."""


def find_images(root: Path, groups: Path | None = None) -> Folder:
    """Find images and their labels in a folder of any known layout.

    Args:
        root: the folder.
        groups: a table of groups elsewhere than in the folder.

    Raises:
        InputError: ``dataset.no_folder``, ``dataset.missing_file``, ``dataset.ambiguous``,
            ``dataset.too_few``.
        FileFormatError: ``dataset.bad_split``, ``dataset.bad_groups``, ``dataset.bad_json``.
    """
    labels = _labels_of(root)
    if (root / "imagesTr").is_dir():
        parts, missing = _nnunet(root)
    elif _drive_parts(root):
        parts, missing = _drive(root)
    else:
        parts, missing = _plain(root)
    parts = _grouped(parts, _groups_of(root, groups))
    parts = _with_all_parts(parts, _split_of(root))
    return Folder(root.resolve().name, parts, tuple(missing), labels)


def _plain(root: Path) -> tuple[dict[str, list[Found]], list[str]]:
    halves = {part: _half(root, names) for part, names in PARTS.items()}
    if halves["train"] is None and _pair_of(root) is None:
        names = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
        raise InputError(
            "dataset.no_folder",
            f"{root} holds no images and masks that are understood; it holds {shown}.",
            "Name a folder with images/ and masks/, with train/ and test/ of such folders, in "
            "nnU-Net's layout (imagesTr, labelsTr), in DRIVE's, or in TopoMortar's "
            "(dataset_types.txt).",
        )
    if halves["train"] is None:
        return {"train": _pairs(*_pair_of(root))}, []  # type: ignore[misc]
    return {part: _pairs(*half) for part, half in halves.items() if half is not None}, []


def _half(root: Path, names: Sequence[str]) -> tuple[Path, Path] | None:
    """Return images and masks of a part, as train/images or images/train."""
    for name in names:
        if (found := _pair_of(root / name)) is not None:
            return found
        for masks in MASKS:
            pair = root / "images" / name, root / masks / name
            if pair[0].is_dir() and pair[1].is_dir():
                return pair
    return None


def _pair_of(folder: Path) -> tuple[Path, Path] | None:
    masks = [folder / name for name in MASKS if (folder / name).is_dir()]
    return (folder / "images", masks[0]) if masks and (folder / "images").is_dir() else None


def _pairs(images: Path, masks: Path) -> list[Found]:
    """Return every image with the label of the same name, whatever their endings and suffixes."""
    labels = _by_name(masks, _LABEL_SUFFIX)
    found, lost = [], []
    files = _files(images)
    plain = [stem_of(path.name) for path in files]
    for path in files:
        place, stem = path.parent.relative_to(images), stem_of(path.name)
        short = _IMAGE_SUFFIX.sub("", stem)
        keys = [(place, stem), (place, short), (Path(), stem), (Path(), short)]
        here = next((labels[key] for key in keys if key in labels), [])
        if not here:
            lost.append(path)
            continue
        if len(here) > 1:
            raise InputError(
                "dataset.ambiguous",
                f"{path.name} has several labels: {', '.join(str(p) for p in here[:3])}.",
                "Keep one per image.",
            )
        group = place.parts[0] if place.parts else ALL
        unique = stem if plain.count(stem) == 1 else "_".join([*place.parts, stem])
        found.append(Found(unique, group, (path,), here[0]))
    refuse_lost([masks / f"{stem_of(path.name)}.*" for path in lost])
    return found


def _by_name(folder: Path, suffix: re.Pattern[str]) -> dict[tuple[Path, str], list[Path]]:
    """Return files by their subfolder and name, with and without a suffix that says "mask"."""
    exact: dict[tuple[Path, str], list[Path]] = {}
    short: dict[tuple[Path, str], list[Path]] = {}
    for path in _files(folder):
        place, stem = path.parent.relative_to(folder), stem_of(path.name)
        exact.setdefault((place, stem), []).append(path)
        if (cut := suffix.sub("", stem)) != stem:
            short.setdefault((place, cut), []).append(path)
    return short | exact


def _nnunet(root: Path) -> tuple[dict[str, list[Found]], list[str]]:
    train, lost = _cases(root / "imagesTr", root / "labelsTr")
    refuse_lost([root / "labelsTr" / f"{name}.*" for name in lost])
    if not (root / "imagesTs").is_dir():
        return {"train": train}, []
    test, missing = _cases(root / "imagesTs", root / "labelsTs")
    return ({"train": train, "test": test} if test else {"train": train}), missing


def _cases(images: Path, labels: Path) -> tuple[list[Found], list[str]]:
    """Return the cases of a folder, the channels NAME_0000, NAME_0001 ... together."""
    known = {stem_of(path.name): path for path in _files(labels)}
    channels: dict[str, list[Path]] = {}
    for path in _files(images):
        stem = stem_of(path.name)
        cut = _CHANNEL.fullmatch(stem)
        # The Decathlon's own files have no number, and a name of their own may end in digits.
        name = cut[1] if cut and stem not in known else stem
        channels.setdefault(name, []).append(path)
    found = [
        Found(name, ALL, tuple(sorted(files)), known[name])
        for name, files in sorted(channels.items())
        if name in known
    ]
    return found, [name for name in sorted(channels) if name not in known]


def _drive_parts(root: Path) -> dict[str, Path]:
    found = [(part, root / name) for part, names in PARTS.items() for name in names]
    return {part: path for part, path in found if (path / "1st_manual").is_dir()}


def _drive(root: Path) -> tuple[dict[str, list[Found]], list[str]]:
    parts, missing = {}, []
    for part, folder in _drive_parts(root).items():
        by_number = [
            {path.name.partition("_")[0]: path for path in _files(folder / name)}
            for name in ("images", "1st_manual", "mask")
        ]
        images, labels, inside = by_number
        if part != "test":
            refuse_lost([folder / "1st_manual" / f"{n}_*" for n in images if n not in labels])
        missing += [number for number in images if number not in labels]
        parts[part] = [
            Found(number, ALL, (path,), labels[number], inside.get(number))
            for number, path in sorted(images.items())
            if number in labels
        ]
    return parts, missing


def _files(folder: Path) -> list[Path]:
    """Return the images below a folder, in the order of their names; hidden files are left out."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.rglob("*") if ending_of(p.name) and not p.name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _labels_of(root: Path) -> Mapping[str, Any]:
    path = root / "dataset.json"
    if not path.is_file():
        return {}
    found = read_mapping(path, "dataset.bad_json").get("labels", {})
    if not isinstance(found, Mapping) or not found:
        raise FileFormatError(
            "dataset.bad_json",
            f"{path} names no labels.",
            'Write "labels": {"background": 0, "vessel": 1}; a region has a list of numbers.',
        )
    # Version 1 of the format maps numbers to names.
    is_old = all(str(key).isdigit() for key in found)
    return {str(value): int(key) for key, value in found.items()} if is_old else found


def _groups_of(root: Path, given: Path | None) -> Mapping[str, str]:
    names = ("groups.csv", "groups.yaml", "groups.yml", "dataset_types.txt")
    path = given or next((root / name for name in names if (root / name).is_file()), None)
    if path is None:
        return {}
    if path.suffix in (".yaml", ".yml", ".json"):
        found = read_mapping(path, "dataset.bad_groups")
        table: dict[str, str] = {}
        for key, value in found.items():
            if isinstance(value, list):
                table |= {str(name): str(key) for name in value}
            else:
                table[str(key)] = str(value)
        return table
    rows = list(csv.reader(read_text(path, "dataset.bad_groups").splitlines()))
    body = [row for row in rows if row]
    if any(len(row) != 2 for row in body) or [c.strip().lower() for c in body[0]] != [
        "id",
        "group",
    ]:
        raise FileFormatError(
            "dataset.bad_groups",
            f"{path} is no table of two columns with the header ID,group.",
            "One line per image: its name without ending, and its group.",
        )
    return {name.strip(): group.strip() for name, group in body[1:]}


def _grouped(
    parts: Mapping[str, Sequence[Found]], groups: Mapping[str, str]
) -> dict[str, tuple[Found, ...]]:
    if not groups:
        return {part: tuple(items) for part, items in parts.items()}
    groups = {stem_of(name): group for name, group in groups.items()}
    tested = parts.get("test") or parts["train"]
    if lost := [item.id for item in tested if item.id not in groups]:
        more = f", nor are {len(lost) - 1} others" if len(lost) > 1 else ""
        raise FileFormatError(
            "dataset.bad_groups",
            f"Image {lost[0]} is in no group{more}.",
            "Every test image needs a group.",
        )
    return {
        part: tuple(replace(item, group=groups.get(item.id, item.group)) for item in items)
        for part, items in parts.items()
    }


def _split_of(root: Path) -> Mapping[str, Sequence[str]]:
    names = ("splits.yaml", "splits.json", "split.yaml", "splits_final.json")
    path = next((root / name for name in names if (root / name).is_file()), None)
    if path is None:
        return {}
    found: Any = read_mapping(path, "dataset.bad_split", may_be_list=True)
    found = found[0] if isinstance(found, list) and found else found
    if isinstance(found, Mapping) and not set(found) & set(PARTS) and len(found) == 1:
        found = next(iter(found.values()))
    is_split = isinstance(found, Mapping) and set(found) <= set(PARTS) and "train" in found
    if not is_split or not all(isinstance(names, list) for names in found.values()):
        raise FileFormatError(
            "dataset.bad_split",
            f"{path} is no split.",
            "It needs lists of names: train, and val or test.",
        )
    return {part: [stem_of(Path(str(n)).name) for n in names] for part, names in found.items()}


def _with_all_parts(
    parts: Mapping[str, tuple[Found, ...]], split: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Found, ...]]:
    """Return training, validation and test images; what no split gives is drawn from training."""
    parts = dict(parts)
    if split:
        known = {item.id: item for items in parts.values() for item in items}
        if lost := [name for names in split.values() for name in names if name not in known]:
            raise FileFormatError(
                "dataset.bad_split",
                f"The split names {lost[0]}, which is no image here.",
                "Names are those of the images, with or without ending.",
            )
        parts |= {part: tuple(known[name] for name in names) for part, names in split.items()}
    if "test" not in parts:
        parts["train"], parts["test"] = _held_out(parts["train"], TEST_SHARE)
    if "val" not in parts:
        parts["train"], parts["val"] = _held_out(parts["train"], VAL_SHARE)
    if not (parts["train"] and parts["test"]):
        raise InputError(
            "dataset.too_few",
            f"{len(parts['train'])} images are left for training and {len(parts['test'])} for "
            "testing.",
            "Give at least 3 images with labels.",
        )
    return parts


def _held_out(items: Iterable[Found], share: float) -> tuple[tuple[Found, ...], tuple[Found, ...]]:
    """Return what stays and what is taken out, the same share of every group.

    Which ones follows from their names alone: another image in the folder moves no other.
    """
    groups: dict[str, list[Found]] = {}
    for item in sorted(items, key=lambda i: hashlib.sha256(i.id.encode()).hexdigest()):
        groups.setdefault(item.group, []).append(item)
    taken: set[str] = set()
    for members in groups.values():
        count = round(share * len(members)) or (len(members) > 2)
        taken |= {item.id for item in members[: int(count)]}
    ordered = sorted((item for members in groups.values() for item in members), key=lambda i: i.id)
    return (
        tuple(item for item in ordered if item.id not in taken),
        tuple(item for item in ordered if item.id in taken),
    )


def refuse_lost(files: Sequence[Path]) -> None:
    """Refuse a set some of whose files are not there (code "dataset.missing_file")."""
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        raise InputError(
            "dataset.missing_file",
            f"Files of the set are not there: {', '.join(map(str, files[:3]))}{more}.",
            f"Copy the missing files; formats: {' '.join(ENDINGS)}.",
        )


def read_mapping(path: Path, code: str, *, may_be_list: bool = False) -> Any:
    """Return what a small YAML or JSON file holds."""
    text = read_text(path, code)
    try:
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if not isinstance(found, (Mapping, list) if may_be_list else Mapping):
            raise ValueError("it is no table of names")
    except (yaml.YAMLError, ValueError) as error:
        why = " ".join(str(error).split())
        raise FileFormatError(code, f"{path} is not understood: {why}.", "See the docs.") from error
    return found


def read_text(path: Path, code: str) -> str:
    """Return what a small text file holds.

    Raises:
        FileFormatError: ``code`` when it cannot be read or is no UTF-8.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(code, f"{path} cannot be read.", "Is the folder whole?") from error
