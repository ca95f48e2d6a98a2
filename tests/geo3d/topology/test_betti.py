"""Betti numbers: hand-worked masks, a brute-force count, Euler's formula, real labels, errors."""

from __future__ import annotations

import csv
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geo3d.errors import ConfigError, ShapeError
from geo3d.topology.betti import betti_numbers, euler_number
from geo3d.topology.grids import check_pixels

DATA = Path(os.environ.get("GEO3D_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
LABELS = DATA / "topomortar"


def random_mask(shape: tuple[int, ...], seed: int, share: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def brute_force_betti(mask: np.ndarray) -> tuple[int, ...]:
    """Betti numbers of the cell complex from the ranks of its boundary matrices over Z/2."""
    cells: list[set[tuple[int, ...]]] = [set() for _ in range(mask.ndim + 1)]
    for index in np.argwhere(mask):
        for step in np.ndindex(*(3,) * mask.ndim):
            cell = tuple(int(2 * i + s) for i, s in zip(index, step, strict=True))
            cells[sum(c % 2 for c in cell)].add(cell)
    ranks = [0]
    for lower, upper in pairwise(cells):
        row = {cell: i for i, cell in enumerate(lower)}
        matrix = np.zeros((len(lower), len(upper)), dtype=np.uint8)
        for j, cell in enumerate(upper):
            for axis, c in enumerate(cell):
                for side in (-1, 1) if c % 2 else ():
                    face = (*cell[:axis], c + side, *cell[axis + 1 :])
                    matrix[row[face], j] = 1
        ranks.append(rank_mod_2(matrix))
    ranks.append(0)
    return tuple(len(cells[k]) - ranks[k] - ranks[k + 1] for k in range(mask.ndim))


def rank_mod_2(matrix: np.ndarray) -> int:
    rank, matrix = 0, matrix.copy()
    for column in range(matrix.shape[1]):
        rows = np.flatnonzero(matrix[rank:, column]) + rank
        if rows.size == 0:
            continue
        matrix[[rank, rows[0]]] = matrix[[rows[0], rank]]
        others = np.flatnonzero(matrix[:, column])
        matrix[others[others != rank]] ^= matrix[rank]
        rank += 1
    return rank


def test_hand_worked_images() -> None:
    ring = np.ones((3, 3), dtype=int)
    ring[1, 1] = 0
    assert betti_numbers(ring) == betti_numbers(ring, "vertices") == (1, 1)
    diagonal = np.eye(2, dtype=bool)
    assert betti_numbers(diagonal) == (1, 0)
    assert betti_numbers(diagonal, "vertices") == (2, 0)
    diamond = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    assert betti_numbers(diamond) == (1, 1)
    assert betti_numbers(diamond, "vertices") == (4, 0)
    assert betti_numbers(np.ones((1, 1), dtype=bool)) == (1, 0)


def test_hand_worked_volumes() -> None:
    shell = np.ones((3, 3, 3), dtype=bool)
    shell[1, 1, 1] = False
    torus = np.ones((2, 3, 3), dtype=bool)
    torus[:, 1, 1] = False
    for pixels in ("cells", "vertices"):
        assert betti_numbers(shell, pixels) == (1, 0, 1)
        assert betti_numbers(torus, pixels) == (1, 1, 0)


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
def test_empty_and_full(shape: tuple[int, ...]) -> None:
    zeros = (0,) * (len(shape) - 1)
    assert betti_numbers(np.zeros(shape, dtype=bool)) == (0, *zeros)
    assert betti_numbers(np.zeros(shape, dtype=bool), empty_is_one=True) == (1, *zeros)
    assert betti_numbers(np.ones(shape, dtype=bool)) == (1, *zeros)


@pytest.mark.parametrize("shape", [(6, 7), (4, 4, 4)])
@pytest.mark.parametrize("seed", range(6))
def test_ranks_of_boundary_matrices_give_the_same(shape: tuple[int, ...], seed: int) -> None:
    mask = random_mask(shape, seed, 0.35 + 0.08 * seed)
    assert betti_numbers(mask) == brute_force_betti(mask)


@pytest.mark.parametrize("pixels", ["cells", "vertices"])
def test_euler_number_is_the_alternating_sum(pixels: str) -> None:
    mask = random_mask((30, 40), 0)
    b0, b1 = betti_numbers(mask, pixels)
    assert euler_number(mask, pixels) == b0 - b1


def test_turning_and_mirroring_change_nothing() -> None:
    for shape in ((20, 30), (8, 9, 10)):
        mask = random_mask(shape, 1)
        for other in (mask.T, mask[::-1], np.pad(mask, 3)):
            assert betti_numbers(other) == betti_numbers(mask)


def test_errors() -> None:
    with pytest.raises(ShapeError, match="bad_dimensions"):
        betti_numbers(np.ones(4, dtype=bool))
    with pytest.raises(ShapeError, match="bad_dimensions"):
        betti_numbers(np.ones((0, 4), dtype=bool))
    with pytest.raises(ShapeError, match="not_a_mask"):
        betti_numbers(np.array([[0, 255]]))


def test_unknown_pixels() -> None:
    with pytest.raises(ConfigError, match="unknown_pixels"):
        check_pixels("corners")


@pytest.mark.data
@pytest.mark.parametrize("name", ["071", "163", "288", "412"])
def test_real_labels(name: str) -> None:
    if not LABELS.is_dir():
        pytest.skip("the labels are not here")
    with (LABELS / "betti_numbers.csv").open(encoding="utf-8") as file:
        rows = {row["ID"]: row for row in csv.DictReader(file)}
    label = np.asarray(Image.open(LABELS / "test" / "accurate" / f"{name}.png"))
    expected = int(rows[name]["Betti0"]), int(rows[name]["Betti1"])
    assert betti_numbers(label == 255) == expected
