"""Folders of objects: content, resuming, enlarging, damage, refusals, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from apps.cli import main
from geo3d.errors import ConfigError, FileFormatError, InputError
from geo3d.work import shards
from scenes.objects.data import object_data
from scenes.objects.data.object_data import (
    ObjectDataConfig,
    make_object_data,
    numbered_object,
    object_batch,
)
from scenes.objects.data.shards import OBJECT_SHARDS, join_batches
from scenes.objects.data.voxels import visible_shell, voxelize

SMALL = ObjectDataConfig(objects=3, kinds=("key", "lamp"), views=2, view_size=24, seed=4)


def made(folder: Path, numbers: list[int], shard: int = 0) -> Path:
    batch, failed = object_data._shard(SMALL, shard, numbers)
    return shards.write_shard(OBJECT_SHARDS, folder, shard, batch, failed, f"key{shard}")


def test_a_shard_gives_back_what_was_put_in(tmp_path: Path) -> None:
    batch, failures, key = shards.read_shard(OBJECT_SHARDS, made(tmp_path, [0, 1]))
    assert (len(batch), failures, key) == (2, {}, "key0")
    assert batch.kinds.tolist() == ["key", "lamp"] and batch.views.shape == (2, 2, 24, 24, 4)
    for i in range(2):
        cells = visible_shell(voxelize(numbered_object(SMALL, i).mesh))
        found = batch.voxels(i)
        for name in ("coords", "colors", "normals", "offsets"):
            np.testing.assert_array_equal(getattr(found, name), getattr(cells, name))


def test_images_and_cameras_belong_together() -> None:
    batch = object_batch(SMALL, 1)
    points = batch.voxels(0).points()
    for view, c2w, (fx, fy, cx, cy) in zip(
        batch.views[0], batch.c2w[0], batch.intrinsics[0], strict=True
    ):
        local = (points - c2w[:3, 3]) @ c2w[:3, :3]
        column = np.floor(local[:, 0] / local[:, 2] * fx + cx).astype(int)
        row = np.floor(local[:, 1] / local[:, 2] * fy + cy).astype(int)
        assert (view[row, column, 3] > 0).mean() > 0.97
        seen = np.argwhere(view[..., 3] > 0)
        # cropped: 1.2 times the longer side
        assert (np.ptp(seen, axis=0).max() + 1) == pytest.approx(24 / 1.2, abs=2)


def test_equal_settings_give_equal_bytes(tmp_path: Path) -> None:
    one = made(tmp_path / "a", [0, 2]).read_bytes()
    assert one == made(tmp_path / "b", [0, 2]).read_bytes()


def test_an_object_that_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: ObjectDataConfig, number: int) -> object:
        if number == 1:
            raise RuntimeError("melted")
        return object_batch(config, number)

    monkeypatch.setattr("scenes.objects.data.object_data.object_batch", broken)
    batch, failures, _ = shards.read_shard(OBJECT_SHARDS, made(tmp_path, [0, 1]))
    assert len(batch) == 1 and failures == {1: "RuntimeError: melted"}


def test_damage_is_seen(tmp_path: Path) -> None:
    path = made(tmp_path, [0])
    shards.write_index(OBJECT_SHARDS, tmp_path, {}, 1)
    assert shards.is_kept(OBJECT_SHARDS, tmp_path, 0, "key0") and not shards.is_kept(
        OBJECT_SHARDS, tmp_path, 0, "other"
    )
    assert len(join_batches(list(shards.read_batches(OBJECT_SHARDS, tmp_path)))) == 1
    path.write_bytes(path.read_bytes()[:-40])
    assert not shards.is_kept(OBJECT_SHARDS, tmp_path, 0, "key0")
    with pytest.raises(FileFormatError) as caught:
        list(shards.read_batches(OBJECT_SHARDS, tmp_path))
    assert caught.value.code == "shards.bad_shard"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "shards.no_index"),
        ("{", "shards.bad_index"),
        ('{"format": 0, "shards": []}', "shards.bad_index"),
        ('{"format": 1, "shards": [{"file": "../x", "sha256": ""}]}', "shards.bad_index"),
    ],
)
def test_a_bad_index_is_refused(tmp_path: Path, text: str | None, code: str) -> None:
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    with pytest.raises(InputError) as caught:
        shards.read_index(OBJECT_SHARDS, tmp_path)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "change",
    [
        {"objects": 0},
        {"seed": -1},
        {"kinds": ()},
        {"kinds": ("dragon",)},
        {"views": 0},
        {"view_size": 4},
        {"lowest_deg": 90.0},
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, change: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        make_object_data(ObjectDataConfig(**change), tmp_path)
    assert caught.value.code == "config.bad_value" and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_makes_continues_and_enlarges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scenes.objects.data.object_data.OBJECTS_PER_SHARD", 2)
    out = str(tmp_path / "objects")
    command = ["data", "objects", "--out", out, "--workers", "2", "--json", "--seed", "4"]
    command += ["--set", "views=1", "--set", "view_size=16", "--set", "kinds=[key, lamp]"]
    assert main([*command, "--objects", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == 3
    first = [shards.shard_path(OBJECT_SHARDS, Path(out), n).read_bytes() for n in (0, 1)]
    times = shards.shard_path(OBJECT_SHARDS, Path(out), 0).stat().st_mtime_ns
    shards.shard_path(OBJECT_SHARDS, Path(out), 1).unlink()
    (Path(out) / "index.json").unlink()
    assert main([*command, "--objects", "3"]) == 0
    assert [shards.shard_path(OBJECT_SHARDS, Path(out), n).read_bytes() for n in (0, 1)] == first
    assert shards.shard_path(OBJECT_SHARDS, Path(out), 0).stat().st_mtime_ns == times
    assert main([*command, "--objects", "4"]) == 0
    capsys.readouterr()
    assert len(join_batches(list(shards.read_batches(OBJECT_SHARDS, out)))) == 4
    assert main([*command, "--objects", "4", "--set", "views=2"]) == 3
    assert "work.other_folder" in capsys.readouterr().out


def test_a_folder_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "objects"]) == 2
    assert "run.no_flag" in capsys.readouterr().err
