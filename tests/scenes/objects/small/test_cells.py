"""Cells of objects: what is in them, on disk and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geo3d.errors import FileFormatError, InputError
from geo3d.synth.objects.generate import generate_object
from scenes.objects.data.object_data import ObjectDataConfig, make_object_data
from scenes.objects.data.voxels import SurfaceVoxels, coarser, visible_shell, voxelize
from scenes.objects.lifting import project
from scenes.objects.small.cells import CellObject, cell_object, prepare_cells, read_cells


def voxels() -> SurfaceVoxels:
    return visible_shell(voxelize(generate_object("stool", 3).mesh))


@pytest.fixture(scope="module")
def stool() -> CellObject:
    views = np.zeros((2, 80, 80, 4), np.uint8)
    views[0, 20:60, 20:60] = (200, 100, 50, 255)
    views[1, ..., :3] = 255
    return cell_object("stool", 3, voxels(), views, np.zeros((2, 6), np.float32))


def test_cells_are_those_of_the_coarse_grid(stool: CellObject) -> None:
    fine = voxels()
    assert np.array_equal(stool.occupancy(), coarser(fine.occupancy(), 4))
    assert np.array_equal(stool.coords, np.argwhere(stool.occupancy()))
    cell, child = np.nonzero(stool.filled)
    place = np.stack(np.unravel_index(child, (4, 4, 4)), axis=1)
    again = stool.coords[cell].astype(int) * 4 + place
    order = np.lexsort(again.T[::-1])
    assert np.array_equal(again[order], fine.coords)
    assert np.array_equal(stool.colors[order], fine.colors)
    assert np.array_equal(stool.offsets[order], fine.offsets)


def test_the_surface_passes_the_filled_cells(stool: CellObject) -> None:
    corners = stool.distances.reshape(-1, 5, 5, 5) < 0
    inside = sum(
        corners[:, i : i + 4, j : j + 4, k : k + 4].astype(int)
        for i in (0, 1)
        for j in (0, 1)
        for k in (0, 1)
    )
    passed = ((inside > 0) & (inside < 8)).reshape(-1, 64)
    assert passed[stool.filled].mean() > 0.95
    assert stool.filled[passed].mean() > 0.95


def test_features_are_distances_and_the_mean_colour(stool: CellObject) -> None:
    features = stool.features()
    assert features.shape == (len(stool.coords), 128) and np.abs(features).max() <= 1
    first = stool.filled[0].sum()
    assert np.allclose(features[0, 125:], (stool.colors[:first] / 127.5 - 1).mean(0), atol=1e-6)
    assert np.allclose(features[:, :125], stool.distances / 127, atol=1e-6)


def test_images_stand_on_black(stool: CellObject) -> None:
    assert stool.views.shape == (2, 64, 64, 3)
    assert np.abs(stool.views[0, 32, 32].astype(int) - (200, 100, 50)).max() <= 1
    assert not stool.views[0, 2, 2].any()
    # white without opacity is black
    assert not stool.views[1].any()


def test_cells_are_made_once_and_read_back(tmp_path: Path) -> None:
    config = ObjectDataConfig(objects=2, kinds=("table", "cup"), views=1, view_size=16)
    make_object_data(config, tmp_path / "objects")
    (made,) = prepare_cells(tmp_path / "objects", tmp_path / "cells")
    assert list(prepare_cells(tmp_path / "objects", tmp_path / "cells")) == []
    items = read_cells(tmp_path / "cells")
    assert [item.name for item in items] == ["table-0", "cup-1"]
    again = visible_shell(voxelize(generate_object("cup", 1).mesh))
    assert np.array_equal(items[1].occupancy(), coarser(again.occupancy(), 4))
    # every cell is seen within the picture
    cells = torch.from_numpy((items[1].coords + 0.5) / 16 - 0.5).float()
    where, _ = project(cells, torch.from_numpy(items[1].cameras))
    assert where.abs().max() < 1
    made.write_bytes(made.read_bytes()[:200])
    with pytest.raises(FileFormatError, match="cells-0000") as caught:
        read_cells(tmp_path / "cells")
    assert caught.value.code == "cells.bad_file"


def test_a_folder_without_cells_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_cells(tmp_path)
    assert caught.value.code == "cells.none"
