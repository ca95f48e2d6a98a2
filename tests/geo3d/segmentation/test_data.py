"""The TopoMortar reader, on a small folder in the same format and on the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geo3d.errors import ConfigError, FileFormatError, InputError
from geo3d.segmentation.config import DataConfig
from geo3d.segmentation.data import (
    generated_dataset,
    generated_items,
    open_dataset,
    read_topomortar,
    samples_digest,
)
from geo3d.segmentation.images import save_mask
from geo3d.synth.walls import GROUPS, brick_wall

PARTS = {"train": ("001", "002"), "val": ("051",), "test": ("071", "121", "171")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder in TopoMortar's format with six tiny images; test 171 is not there."""
    rows, split = ["ID,group"], ["1:"]
    for part, names in PARTS.items():
        split.append(f"  {part}:")
        for name in names:
            rows.append(f"{name},{'indistr' if int(name) < 121 else GROUPS[int(name) // 50 - 1]}")
            split.append(f"  - dataset/{part}/images/{name}.png")
            if name != "171":
                write(tmp_path, part, name)
    (tmp_path / "dataset_types.txt").write_text("\n".join(rows) + "\n", "utf-8")
    (tmp_path / "splits.yaml").write_text("\n".join(split) + "\n", "utf-8")
    short = [line for line in split if "002" not in line]
    (tmp_path / "splits_small.yaml").write_text("\n".join(short) + "\n", "utf-8")
    return tmp_path


def write(root: Path, part: str, name: str) -> None:
    wall = brick_wall(int(name), 24, 32)
    for kind in ("images", "accurate", *(("noisy", "pseudo") if part != "test" else ())):
        (root / part / kind).mkdir(parents=True, exist_ok=True)
        path = root / part / kind / f"{name}.png"
        if kind == "images":
            Image.fromarray(wall.image).save(path)
        else:
            save_mask(path, wall.mask if kind == "accurate" else ~wall.mask)


def test_everything_is_found(folder: Path) -> None:
    dataset = read_topomortar(folder)
    assert [i.id for i in dataset.train] == ["001", "002"]
    assert [(i.id, i.group) for i in dataset.test] == [("071", "indistr"), ("121", "angles")]
    assert dataset.missing == ("171",)
    sample = dataset.train[0].load()
    wall = brick_wall(1, 24, 32)
    np.testing.assert_array_equal(sample.image, wall.image)
    np.testing.assert_array_equal(sample.mask, wall.mask)
    assert sample.notes == ()


def test_the_folder_may_lie_one_level_deeper(folder: Path, tmp_path: Path) -> None:
    deeper = tmp_path / "repository"
    deeper.mkdir()
    moved = deeper / "dataset"
    moved.mkdir()
    for entry in list(folder.iterdir()):
        if entry != deeper:
            entry.rename(moved / entry.name)
    assert len(read_topomortar(deeper).train) == 2


def test_labels_change_training_and_validation_only(folder: Path) -> None:
    dataset = read_topomortar(folder, "noisy")
    for item, kind in ((dataset.train[0], "noisy"), (dataset.val[0], "noisy")):
        assert item.label.parent.name == kind  # type: ignore[union-attr]
    assert dataset.test[0].label.parent.name == "accurate"  # type: ignore[union-attr]


def test_small_has_fewer_for_training(folder: Path) -> None:
    assert [i.id for i in read_topomortar(folder, size="small").train] == ["001"]


def test_a_whole_test_set_can_be_demanded(folder: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.missing_file.*171"):
        read_topomortar(folder, test="all")


def test_missing_training_files_are_named(folder: Path) -> None:
    (folder / "train" / "accurate" / "002.png").unlink()
    with pytest.raises(InputError, match=r"dataset\.missing_file.*002"):
        read_topomortar(folder)
    assert len(read_topomortar(folder, "noisy").train) == 2


def test_the_cut_split_serves_where_the_whole_one_is_not(folder: Path) -> None:
    (folder / "splits.yaml").rename(folder / "splits_subset.yaml")
    assert len(read_topomortar(folder).train) == 2


def test_other_choices_are_refused(folder: Path) -> None:
    for given in ({"labels": "exact"}, {"size": "huge"}, {"test": "none"}):
        # The annotation refuses first, where tests check types.
        with pytest.raises(Exception, match=r"dataset\.unknown_choice|Type-check"):
            read_topomortar(folder, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1:\n  train: [a]\n",
        "[1, 2]",
        "1: {train: ['dataset/train/images/../../../x.png'], val: [], test: []}",
        "1: {train: [dataset/val/images/001.png], val: [], test: []}",
        "1: {train: []}",
        "{",
        "1: !!python/object/apply:os.getcwd []",
    ],
)
def test_bad_splits_are_refused(folder: Path, text: str) -> None:
    (folder / "splits.yaml").write_text(text, "utf-8")
    with pytest.raises(FileFormatError, match=r"dataset\.bad_split"):
        read_topomortar(folder)


@pytest.mark.parametrize("text", ["", "001,indistr\n", "ID,group\n001,upside\n", "ID,group\n"])
def test_bad_groups_are_refused(folder: Path, text: str) -> None:
    (folder / "dataset_types.txt").write_text(text, "utf-8")
    with pytest.raises(FileFormatError, match=r"dataset\.bad_groups"):
        read_topomortar(folder)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.no_folder"):
        read_topomortar(tmp_path)


def test_unequal_sizes_are_refused(folder: Path) -> None:
    save_mask(folder / "train" / "accurate" / "001.png", np.ones((4, 5), bool))
    with pytest.raises(InputError, match=r"dataset\.unequal_sizes.*32 x 24 and 5 x 4"):
        read_topomortar(folder).train[0].load()


def test_generated_items_draw_the_same_again() -> None:
    first, other = generated_items(8, 32, seed=4, groups=GROUPS)[:2]
    assert (first.group, other.group) == ("indistr", "angles")
    np.testing.assert_array_equal(first.load().image, first.load().image)
    samples = [item.load() for item in generated_items(2, 32)]
    assert samples_digest(samples) == samples_digest(samples)
    assert samples_digest(samples) != samples_digest(samples[::-1])


def test_parts_of_a_generated_set_are_different() -> None:
    dataset = generated_dataset(3, 2, 7, 32)
    assert {item.group for item in dataset.test} == set(GROUPS)
    seeds = [i.seed for i in (*dataset.train, *dataset.val, *dataset.test)]  # type: ignore[union-attr]
    assert len(set(seeds)) == len(seeds)


def test_settings_open_walls_or_the_folder_with_walls(folder: Path) -> None:
    assert len(open_dataset(DataConfig(walls=3, wall_side=32)).train) == 3
    mixed = open_dataset(DataConfig(str(folder), walls=8, wall_side=32))
    assert len(mixed.train) == 2 + 8 and mixed.name.endswith("+8walls")
    with pytest.raises(ConfigError, match="walls must be at least 0"):
        DataConfig(walls=-1)


@pytest.mark.data
def test_the_real_folder(data_root: Path) -> None:
    root = data_root / "topomortar"
    if not root.is_dir():
        pytest.skip("TopoMortar is not here")
    dataset = read_topomortar(root)
    assert (len(dataset.train), len(dataset.val)) == (50, 20)
    assert len(dataset.test) + len(dataset.missing) == 350
    small = read_topomortar(root, size="small")
    names = "001 009 011 024 036 041 043 045 048 049".split()
    assert sorted(item.id for item in small.train) == names
    odd = next(item for item in dataset.test if item.id == "163").load()
    assert any("other than 0 and 255 (8)" in note for note in odd.notes)
