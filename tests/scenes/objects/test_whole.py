"""Closed shells and solids: gaps, crumbs, hollows; no open edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from object_pipelines import cut_out_image, tiny_pipeline

from geo3d.mesh.manifold import open_edges
from scenes.objects.pipeline import GenerateConfig
from scenes.objects.slat_mesh import CubeLayout, extract_mesh
from scenes.objects.sparse import SparseTensor
from scenes.objects.whole import closed_shell, solid_signs

R = 16


def box(low: int, high: int) -> np.ndarray:
    """Return the shell of a box of cells."""
    full = np.zeros((R,) * 3, bool)
    full[low:high, low:high, low:high] = True
    full[low + 1 : high - 1, low + 1 : high - 1, low + 1 : high - 1] = False
    return full


def closed(cells: np.ndarray) -> np.ndarray:
    found = np.zeros_like(cells)
    found[tuple(closed_shell(np.argwhere(cells), R).T)] = True
    return found


def test_a_shell_without_gaps_stays() -> None:
    assert (closed(box(3, 12)) == box(3, 12)).all()
    order = closed_shell(np.argwhere(box(3, 12))[::-1], R)
    assert (order == np.argwhere(box(3, 12))).all()


@pytest.mark.parametrize("gap", [(3, 7, 7), (3, slice(6, 8), slice(6, 8)), (11, 5, slice(4, 9))])
def test_small_gaps_are_closed(gap: tuple) -> None:
    leaky = box(3, 12)
    leaky[gap] = False
    assert (closed(leaky) == box(3, 12)).all()


def test_wide_openings_and_holes_stay_open() -> None:
    cup = box(3, 12)
    cup[4:11, 4:11, 11] = False
    assert (closed(cup) == cup).all()
    handle = np.zeros((R,) * 3, bool)
    handle[3:9, 6:8, 3:9] = True
    handle[5:7, :, 5:7] = False
    assert (closed(handle) == handle).all()


def test_crumbs_go_and_hidden_cells_stay() -> None:
    thick = box(3, 12) | box(4, 11)
    full = thick.copy()
    full[14, 14, 14] = True
    assert (closed(full) == thick).all()
    # of two things of like size both stay
    pair = box(1, 6) | np.roll(box(1, 6), 8, axis=0)
    assert (closed(pair) == pair).all()


def test_any_shell_at_the_border_stays() -> None:
    draw = np.random.default_rng(0)
    for _ in range(10):
        cells = draw.random((R,) * 3) < 0.1
        found = closed(cells)
        assert found.any() and closed_shell(np.argwhere(found), R).max() < R
    assert len(closed_shell(np.array([[0, 0, 0]]), R)) == 1


def test_hollows_are_solid_and_the_border_is_outside() -> None:
    shell = box(2, 10)
    grid = np.mgrid[: R + 1, : R + 1, : R + 1]
    depth = np.abs(grid - 6).max(axis=0)
    # inside between 2.5 and 3.5 cells from the middle: a hollow with walls of a cell
    signs = solid_signs(np.abs(depth - 3.0) - 0.5, shell)
    assert signs[6, 6, 6] and signs[3, 6, 6] and not signs[2, 6, 6] and not signs[12, 6, 6]
    assert signs.sum() == 7**3
    everything = solid_signs(-np.ones((R + 1,) * 3), np.ones((R,) * 3, bool))
    assert everything.sum() == (R - 1) ** 3


def features(cells: np.ndarray, noise: float, seed: int = 0) -> SparseTensor:
    """Return cubes that tell the distance to a ball, with noise, and its colour."""
    coords = np.argwhere(cells)
    layout = CubeLayout()
    values = np.random.default_rng(seed).normal(0, noise, (len(coords), layout.channels))
    from scenes.objects.flexicubes_tables import CORNERS

    corners = coords[:, None] + np.array(CORNERS)
    values[:, :8] += (np.linalg.norm(corners - R / 2, axis=2) - 5.2) / R + 1 / R
    item = torch.from_numpy(np.pad(coords, ((0, 0), (1, 0)))).int()
    return SparseTensor(torch.from_numpy(values).float(), item, 1)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("close", [True, False])
def test_a_whole_surface_has_no_open_edges(noise: float, close: bool) -> None:
    centres = np.linalg.norm(np.mgrid[:R, :R, :R] + 0.5 - R / 2, axis=0)
    shell = np.abs(centres - 5.2) < 1.2
    item = features(shell, noise)
    made = extract_mesh(item, R, CubeLayout(close=close), whole=True).to_mesh()
    assert open_edges(made.faces)[0] == 0 and made.n_faces > 200
    a, b, c = np.moveaxis(made.vertices[made.faces], 1, 0)
    volume = np.einsum("fi,fi->", a, np.cross(b, c)) / 6 * R**3
    if noise < 0.1:
        assert volume == pytest.approx(4 / 3 * np.pi * 5.2**3, rel=0.1)
    if noise == 0:
        # no inner wall: every vertex is about as far from the middle
        assert np.abs(np.linalg.norm(made.vertices, axis=1) * R - 5.2).max() < 1.0
        rim = extract_mesh(item, R, CubeLayout(), whole=False).to_mesh()
        assert np.linalg.norm(rim.vertices, axis=1).min() * R < 4.6


def test_a_surface_at_the_border_of_the_grid_is_closed() -> None:
    item = features(np.ones((R,) * 3, bool), 0.0)
    item = item.replace(torch.cat([item.feats[:, :8] * 0 - 1, item.feats[:, 8:]], dim=1))
    made = extract_mesh(item, R, CubeLayout(), whole=True).to_mesh()
    assert open_edges(made.faces)[0] == 0 and made.n_faces > 0


def test_nothing_to_draw_is_an_empty_mesh() -> None:
    item = features(box(3, 12), 0.0)
    outside = item.replace(torch.cat([item.feats[:, :8] * 0 + 1, item.feats[:, 8:]], dim=1))
    # the shell's hollow is sealed, but no cell of the shell says that there is an inside
    assert extract_mesh(outside, R, CubeLayout(), whole=False).faces.shape[0] == 0
    empty = SparseTensor(torch.zeros(0, CubeLayout().channels), torch.zeros(0, 4).int(), 1)
    assert extract_mesh(empty, R, CubeLayout(), whole=True).faces.shape[0] == 0


def test_a_pipeline_makes_whole_objects_unless_told_otherwise() -> None:
    pipeline = tiny_pipeline()
    made = {}
    for whole in (True, False):
        config = GenerateConfig(outputs=("mesh",), whole=whole)
        (made[whole],) = pipeline.generate([cut_out_image()], [1], config).objects
    mesh = made[True].mesh
    assert mesh is not None and open_edges(mesh.to_mesh().faces)[0] == 0
    assert torch.equal(made[True].structure, made[False].structure)
