"""Folders of street images: the same whatever happened before, refused when they do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geo3d.errors import ConfigError, FileFormatError, InputError
from geo3d.work import runner
from scenes.urban.conditions import MAX_DEPTH, semantic_colors
from scenes.urban.street_data import (
    StreetDataConfig,
    jittered,
    load_street_data,
    make_street_data,
    street_images,
)

CONFIG = StreetDataConfig(pictures=6, size=16, street_length=40.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streets")
    index = make_street_data(CONFIG, path)
    assert not index["lost_shards"] and len(index["shards"]) == 1
    return path


def test_a_folder_holds_what_its_settings_and_number_say(folder: Path) -> None:
    data, again = load_street_data(folder), street_images(CONFIG, 0)
    assert len(data) == 6 and data.images.shape == (6, 16, 16, 3)
    for name in vars(data):
        np.testing.assert_array_equal(getattr(data, name), getattr(again, name))
    other = street_images(replace(CONFIG, seed=1), 0)
    assert (other.images != data.images).any()
    assert (street_images(CONFIG, 0).part(slice(0, 2)).images == data.images[:2]).all()


def test_conditions_are_the_published_ones(folder: Path) -> None:
    data = load_street_data(folder)
    condition = data.condition(0)
    assert condition.shape == (4, 16, 16) and condition.dtype == np.float32
    colors = semantic_colors(data.labels[0].astype(int)) / 127.5 - 1
    np.testing.assert_allclose(condition[:3], colors.transpose(2, 0, 1), atol=1e-6)
    depth = np.maximum(data.depths[0].astype(np.float32), 0) / MAX_DEPTH
    np.testing.assert_allclose(condition[3], depth, atol=1e-6)


def test_a_finished_folder_is_kept_and_a_damaged_one_mended(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = folder / "streets-0000.npz"
    before = shard.read_bytes()
    # a second call must not draw anything: there are no workers to be had
    monkeypatch.setattr(runner.Work, "engine", None)
    make_street_data(CONFIG, folder)
    monkeypatch.undo()
    shard.write_bytes(before[:-100])
    with pytest.raises(FileFormatError) as caught:
        load_street_data(folder)
    assert caught.value.code == "shards.bad_shard"
    make_street_data(CONFIG, folder)
    assert shard.read_bytes() == before


def test_folders_of_other_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        make_street_data(replace(CONFIG, size=24), folder)
    assert caught.value.code == "work.other_folder"
    with pytest.raises(InputError) as caught:
        load_street_data(tmp_path)
    assert caught.value.code == "shards.no_index"


@pytest.mark.parametrize(
    "change",
    [{"pictures": 0}, {"seed": -1}, {"size": 20}, {"pairs": 1.5}, {"street_length": 5.0}],
)
def test_bad_settings_are_refused(change: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_street_data(replace(CONFIG, **change), tmp_path / "x")
    assert caught.value.code == "config.bad_value"
    assert not (tmp_path / "x").exists()


def test_cameras_stay_near_the_drive() -> None:
    rng, drive = np.random.default_rng(0), np.tile(np.eye(4), (1, 1, 1))
    poses = np.array([jittered(drive, CONFIG, rng) for _ in range(300)])
    yaw = np.degrees(np.arctan2(poses[:, 0, 2], poses[:, 2, 2]))
    assert 25 < np.abs(yaw).max() <= 45 and abs(yaw.mean()) < 5
    assert np.abs(poses[:, :3, 3]).max() <= 1.0
    np.testing.assert_allclose(poses[:, 1, :3], [[0, 1, 0]] * 300, atol=1e-12)
