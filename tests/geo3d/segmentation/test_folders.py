"""Folders of images and masks as people have them, and what is said where they are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from geo3d.errors import ConfigError, Geo3dError
from geo3d.segmentation.config import DataConfig
from geo3d.segmentation.data import Dataset, open_dataset
from geo3d.segmentation.kinds import IGNORED, DataKind
from geo3d.segmentation.rasters import read_labels, read_raster, save_labels

DRAWS = np.random.default_rng(0)


def grey(side: int = 16) -> np.ndarray:
    return DRAWS.integers(0, 256, (side, side), dtype=np.uint8)


def labels(values: tuple[int, ...] = (0, 255), side: int = 16) -> np.ndarray:
    found = DRAWS.choice(np.array(values, np.uint8), (side, side))
    found.ravel()[: len(values)] = values
    return found


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def fill(root: Path, names: str = "abcdefgh", values: tuple[int, ...] = (0, 255)) -> Path:
    for name in names:
        save(root / "images" / f"{name}.png", grey())
        save(root / "masks" / f"{name}.png", labels(values))
    return root


def opened(root: Path, **settings: str) -> Dataset:
    return open_dataset(DataConfig(str(root), **settings))


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(Geo3dError) as caught:
        action()
    return caught.value.code


def test_images_and_masks(tmp_path: Path) -> None:
    dataset = opened(fill(tmp_path))
    assert [len(dataset.train), len(dataset.val), len(dataset.test)] == [5, 1, 2]
    assert dataset.kind == DataKind(("background", "foreground"), channels=1)
    assert len({i.id for i in (*dataset.train, *dataset.val, *dataset.test)}) == 8
    sample = dataset.train[0].load()
    assert sample.image.shape == (16, 16, 1) and sample.mask.dtype == bool
    true = np.asarray(Image.open(tmp_path / "masks" / f"{dataset.train[0].id}.png")) == 255
    np.testing.assert_array_equal(sample.mask, true)


def test_a_new_image_moves_no_other_one(tmp_path: Path) -> None:
    before = {i.id for i in opened(fill(tmp_path)).train}
    after = opened(fill(tmp_path, "i")).train
    assert before - {i.id for i in after} <= {max(before | {"i"})} or len(before) >= 4
    assert [i.id for i in opened(tmp_path).train] == [i.id for i in after]


def test_names_of_masks_may_differ(tmp_path: Path) -> None:
    for k in range(4):
        save(tmp_path / "images" / f"{k}_sat.jpg", grey())
        save(tmp_path / "labels" / f"{k}_mask.png", labels())
    assert len(opened(tmp_path).train) == 2
    save(tmp_path / "labels" / "0-seg.png", labels())
    assert code_of(lambda: opened(tmp_path)) == "dataset.ambiguous"


def test_subfolders_are_groups_and_a_table_is_stronger(tmp_path: Path) -> None:
    for group in ("indistr", "night"):
        for k in range(4):
            save(tmp_path / "images" / group / f"{group}{k}.png", grey())
            save(tmp_path / "masks" / group / f"{group}{k}.png", labels())
    assert sorted({i.group for i in opened(tmp_path).test}) == ["indistr", "night"]
    ids = [f"{g}{k}" for g in ("indistr", "night") for k in range(4)]
    (tmp_path / "groups.csv").write_text("ID,group\n" + "".join(f"{i}.png,x\n" for i in ids))
    assert {i.group for i in opened(tmp_path).test} == {"x"}
    other = tmp_path / "other.yaml"
    other.write_text(json.dumps({"y": ids[:4], "z": ids[4:]}))
    assert {i.group for i in opened(tmp_path, groups=str(other)).test} == {"y", "z"}
    other.write_text(json.dumps({"y": ids[:1]}))
    assert code_of(lambda: opened(tmp_path, groups=str(other))) == "dataset.bad_groups"
    (tmp_path / "groups.csv").write_text("name;kind\n1;2\n")
    assert code_of(lambda: opened(tmp_path)) == "dataset.bad_groups"


def test_splits_of_ones_own(tmp_path: Path) -> None:
    fill(tmp_path)
    split = {"train": ["a", "b.png"], "val": ["c"], "test": ["d", "images/e.png"]}
    (tmp_path / "splits.yaml").write_text(json.dumps(split))
    dataset = opened(tmp_path)
    assert [i.id for i in dataset.train] == ["a", "b"]
    assert [i.id for i in dataset.test] == ["d", "e"]
    (tmp_path / "splits.yaml").write_text(json.dumps({"train": ["nobody"]}))
    assert code_of(lambda: opened(tmp_path)) == "dataset.bad_split"
    (tmp_path / "splits.yaml").write_text("[1, 2")
    assert code_of(lambda: opened(tmp_path)) == "dataset.bad_split"


@pytest.mark.parametrize("layout", ["train/images", "images/train"])
def test_folders_for_training_and_testing(layout: str, tmp_path: Path) -> None:
    for part, names in (("train", "abcd"), ("test", "ef")):
        for name in names:
            folder = layout.replace("train", part)
            save(tmp_path / folder / f"{name}.png", grey())
            save(tmp_path / folder.replace("images", "masks") / f"{name}.png", labels())
    dataset = opened(tmp_path)
    assert [i.id for i in dataset.test] == ["e", "f"]
    assert len(dataset.train) == 3 and len(dataset.val) == 1


def test_classes_follow_from_the_values(tmp_path: Path) -> None:
    several = opened(fill(tmp_path / "a", values=(0, 1, 2, 255)))
    assert several.kind.classes == ("background", "class 1", "class 2")
    sample = several.train[0].load()
    assert set(np.unique(sample.mask)) == {0, 1, 2, IGNORED} and sample.counts is not None
    assert any("255" in note for note in several.notes)
    levels = opened(fill(tmp_path / "b", values=(0, 128, 255)))
    assert levels.kind.classes == ("background", "class 128", "class 255")
    assert set(np.unique(levels.train[0].load().mask)) == {0, 1, 2}


def test_nnunet(tmp_path: Path) -> None:
    for name in ("vessel_001", "vessel_002", "vessel_003", "vessel_004"):
        for channel in range(2):
            save(tmp_path / "imagesTr" / f"{name}_{channel:04d}.png", grey())
        save(tmp_path / "labelsTr" / f"{name}.png", labels((0, 1, 2, 3)))
    about = {"channel_names": {"0": "R", "1": "G"}, "file_ending": ".png"}
    names = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({**about, "labels": names}))
    fold = [{"train": ["vessel_001", "vessel_002"], "val": ["vessel_003"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(fold))
    save(tmp_path / "imagesTs" / "x_0000.png", grey())
    save(tmp_path / "imagesTs" / "x_0001.png", grey())
    save(tmp_path / "labelsTs" / "x.png", labels((0, 1, 2, 3)))
    save(tmp_path / "imagesTs" / "y_0000.png", grey())
    dataset = opened(tmp_path)
    assert dataset.kind == DataKind(("whole", "core"), ((1, 2), (2,)), channels=2)
    assert [i.id for i in dataset.test] == ["x"] and dataset.missing == ("y",)
    assert [i.id for i in dataset.val] == ["vessel_003"]
    sample = dataset.train[0].load()
    assert sample.image.shape == (16, 16, 2)
    masks = dataset.kind.masks(sample.mask)
    assert (masks["core"] & ~masks["whole"]).sum() == 0 and masks["core"].any()
    assert IGNORED in sample.mask
    (tmp_path / "dataset.json").write_text(json.dumps({**about, "labels": {"vessel": 1}}))
    assert code_of(lambda: opened(tmp_path)) == "dataset.unknown_label"
    (tmp_path / "dataset.json").write_text('{"labels": {"vessel": "one"}}')
    assert code_of(lambda: opened(tmp_path)) == "dataset.bad_json"


def test_drive(tmp_path: Path) -> None:
    field = np.zeros((16, 16), np.uint8)
    field[4:12, 4:12] = 255
    for part, numbers in (("training", range(21, 25)), ("test", range(1, 3))):
        for n in numbers:
            colour = np.repeat(grey()[..., None], 3, axis=2)
            save(tmp_path / part / "images" / f"{n:02d}_{part}.tif", colour)
            save(tmp_path / part / "1st_manual" / f"{n:02d}_manual1.gif", labels())
            save(tmp_path / part / "mask" / f"{n:02d}_{part}_mask.gif", field)
    dataset = opened(tmp_path)
    assert [i.id for i in dataset.test] == ["01", "02"] and len(dataset.train) == 3
    sample = dataset.test[0].load()
    assert sample.image.shape == (16, 16, 3)
    np.testing.assert_array_equal(sample.counts, field > 0)


def test_volumes(tmp_path: Path) -> None:
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    for name in "abc":
        for folder, dtype in (("imagesTr", np.int16), ("labelsTr", np.uint8)):
            (tmp_path / folder).mkdir(exist_ok=True)
            values = DRAWS.integers(0, 2, (8, 9, 10)).astype(dtype)
            end = "_0000.nii.gz" if folder == "imagesTr" else ".nii.gz"
            nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / folder / (name + end))
    dataset = opened(tmp_path)
    assert dataset.kind.dimensions == 3 and dataset.kind.spacing == (0.5, 0.5, 2.0)
    sample = dataset.train[0].load()
    assert sample.image.shape == (8, 9, 10, 1) and sample.mask.shape == (8, 9, 10)
    (tmp_path / "imagesTr" / "a_0000.nii.gz").write_bytes(b"nonsense")
    assert code_of(lambda: opened(tmp_path)) == "image.unreadable"


def test_values_are_kept_as_they_are(tmp_path: Path) -> None:
    deep = DRAWS.integers(0, 65536, (4, 5)).astype(np.uint16)
    np.testing.assert_array_equal(read_raster(save(tmp_path / "a.png", deep)).values[..., 0], deep)
    stack = DRAWS.random((3, 4, 5)).astype(np.float32)
    np.save(tmp_path / "a.npy", stack)
    np.testing.assert_array_equal(read_raster(tmp_path / "a.npy").values[..., 0], stack)
    np.save(tmp_path / "b.npy", np.array([[1.0, np.nan]]))
    assert code_of(lambda: read_raster(tmp_path / "b.npy")) == "image.not_finite"
    frames = [Image.fromarray(grey()) for _ in range(6)]
    frames[0].save(tmp_path / "c.tif", save_all=True, append_images=frames[1:])
    found = read_raster(tmp_path / "c.tif").values
    np.testing.assert_array_equal(found[..., 0], np.stack([np.asarray(f) for f in frames]))
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "p.png").values[..., 0], [[0, 1, 2]])
    for shape in ((4, 5), (3, 4, 5)):
        number = DRAWS.integers(0, 3, shape)
        again = read_labels(save_labels(tmp_path / f"out{len(shape)}", number))
        np.testing.assert_array_equal(again.values[..., 0], number)


def test_everything_unreadable_is_named_together(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "images" / "a.png").write_bytes(b"")
    save(tmp_path / "masks" / "b.png", labels(side=8))
    with pytest.raises(Geo3dError, match=r"2 of 8.*a\.png.*16 x 16 and 8 x 8") as caught:
        opened(tmp_path)
    assert caught.value.code == "dataset.unreadable"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda r: (r / "masks" / "a.png").unlink(), "dataset.missing_file"),
        (lambda r: save(r / "masks" / "a.png", grey()), "dataset.too_many_labels"),
        (
            lambda r: save(r / "masks" / "a.png", DRAWS.integers(0, 9, (16, 16, 3)).astype("u1")),
            "dataset.bad_label",
        ),
        (
            lambda r: [save(p, np.zeros((16, 16), np.uint8)) for p in (r / "masks").iterdir()],
            "dataset.no_foreground",
        ),
        (lambda r: (r / "masks").rename(r / "truths"), "dataset.no_folder"),
        (
            lambda r: [p.unlink() for p in [*r.glob("*/*")] if p.stem not in "ab"],
            "dataset.too_few",
        ),
        (lambda r: np.save(r / "images" / "z.npy", np.zeros((3, 9, 9))), "dataset.missing_file"),
    ],
)
def test_slips_are_named(spoil: Callable[[Path], object], code: str, tmp_path: Path) -> None:
    spoil(fill(tmp_path))
    assert code_of(lambda: opened(tmp_path)) == code


def test_grey_among_colour_becomes_colour_and_is_said_once(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in "ab":
        save(tmp_path / "images" / f"{name}.png", np.repeat(grey()[..., None], 3, axis=2))
    dataset = opened(tmp_path)
    assert dataset.kind.channels == 3
    assert [n for n in dataset.notes if "grey" in n] == [
        "grey images among colour ones are made colour"
    ]
    assert {i.load().image.shape for i in dataset.train} == {(16, 16, 3)}


def test_what_only_topomortar_has_is_refused_elsewhere(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(ConfigError, match=r"dataset\.not_topomortar"):
        opened(tmp_path, labels="noisy")


def test_regions_are_painted_large_to_small() -> None:
    kind = DataKind(("whole", "core"), ((1, 2), (2,)), channels=1)
    p = np.array([[0.9, 0.9, 0.1], [0.1, 0.9, 0.1]])[:, None]
    np.testing.assert_array_equal(kind.label_map(p), [[1, 2, 0]])
    found = kind.predicted(p)
    np.testing.assert_array_equal(found["core"], [[False, True, False]])
    assert DataKind.from_dict(kind.to_dict()) == kind
