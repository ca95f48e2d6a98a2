"""Persistence: hand-worked images, Betti numbers of every level, places, duality, errors."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.errors import ConfigError, InputError, ShapeError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import check_pixels
from geo3d.topology.persistence import Pairs, component_pairs, persistence


def alive(pairs: tuple[Pairs, ...], level: float) -> tuple[int, ...]:
    return tuple(int(np.sum((p.birth <= level) & (p.death > level))) for p in pairs)


def random_image(shape: tuple[int, ...], seed: int, ties: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 5, shape).astype(float) if ties else rng.random(shape)


def test_two_valleys_by_hand() -> None:
    components, holes = persistence(np.array([[1.0, 3.0, 0.0]]))
    assert components.birth.tolist() == [1, 0]
    assert components.death.tolist() == [3, np.inf]
    assert components.birth_at.tolist() == [0, 2]
    assert components.death_at.tolist() == [1, -1]
    assert components.persistence.tolist() == [2, np.inf]
    assert len(holes) == 0


def test_a_ring_by_hand() -> None:
    image = np.array([[1.0, 2, 1], [1, 9, 1], [1, 1, 1]])
    for pixels, born_at in (("cells", 1), ("vertices", 1)):
        components, holes = persistence(image, pixels)
        assert len(components) == 1
        assert (holes.birth.tolist(), holes.death.tolist()) == ([2], [9])
        assert (holes.birth_at.tolist(), holes.death_at.tolist()) == ([born_at], [4])


def test_a_hollow_cube_by_hand() -> None:
    image = np.ones((3, 3, 3))
    image[1, 1, 1], image[0, 1, 1] = 7, 4
    components, tunnels, cavities = persistence(image)
    assert (len(components), len(tunnels)) == (1, 0)
    assert (cavities.birth.tolist(), cavities.death.tolist()) == ([4], [7])
    assert (cavities.birth_at.tolist(), cavities.death_at.tolist()) == ([4], [13])


def test_a_solid_ring_by_hand() -> None:
    image = np.full((3, 5, 5), 8.0)
    image[1, 1:4, 1:4] = 1
    image[1, 2, 2], image[1, 1, 2] = 6, 3
    for pixels in ("cells", "vertices"):
        _, tunnels, _ = persistence(image, pixels)
        assert (tunnels.birth.tolist(), tunnels.death.tolist()) == ([3], [6])
        assert (tunnels.birth_at.tolist(), tunnels.death_at.tolist()) == ([32], [37])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("pixels", ["cells", "vertices"])
@pytest.mark.parametrize("shape", [(9, 11), (1, 6), (5, 6, 7), (4, 1, 4), (2, 2, 2)])
def test_every_level_has_its_betti_numbers(shape: tuple[int, ...], pixels: str, ties: bool) -> None:
    image = random_image(shape, 3, ties)
    pairs = persistence(image, pixels)
    for level in np.unique(image)[:: 1 if image.size < 100 else 7]:
        assert alive(pairs, level) == betti_numbers(image <= level, pixels), level
    for p in pairs:
        stays = p.death_at < 0
        assert np.array_equal(image.ravel()[p.birth_at], p.birth)
        assert np.array_equal(image.ravel()[p.death_at[~stays]], p.death[~stays])
        assert np.all(p.death > p.birth)


@pytest.mark.parametrize("shape", [(12, 13), (5, 6, 4)])
def test_superlevel_is_sublevel_of_the_negative(shape: tuple[int, ...]) -> None:
    image = random_image(shape, 4, False)
    for up, down in zip(persistence(image, superlevel=True), persistence(-image), strict=True):
        assert np.array_equal(up.birth, -down.birth) and np.array_equal(up.death, -down.death)
        assert np.array_equal(up.birth_at, down.birth_at)
        assert np.array_equal(up.death_at, down.death_at)


def test_increasing_rescaling_keeps_the_places() -> None:
    image = random_image((20, 21), 5, False)
    for one, two in zip(persistence(image), persistence(np.exp(3 * image) - 9), strict=True):
        assert np.array_equal(one.birth_at, two.birth_at)
        assert np.array_equal(one.death_at, two.death_at)


def test_small_changes_move_the_diagram_little() -> None:
    image = random_image((16, 16), 6, False)
    moved = image + 1e-9 * random_image((16, 16), 7, False)
    for one, two in zip(persistence(image), persistence(moved), strict=True):
        np.testing.assert_allclose(np.sort(one.birth), np.sort(two.birth), atol=2e-9)


def test_unsigned_images_and_constant_ones() -> None:
    image = np.array([[200, 0, 100]], dtype=np.uint8)
    pairs = component_pairs(image, superlevel=True)
    assert pairs.birth.tolist() == [100, 200] and pairs.death.tolist() == [0, -np.inf]
    assert [len(p) for p in persistence(np.ones((4, 4)))] == [1, 0]
    assert [len(p) for p in persistence(np.ones((4, 4, 4)))] == [1, 0, 0]
    half = component_pairs(np.array([[1, 3, 0]], dtype=np.float16))
    assert half.birth.dtype == half.death.dtype == np.float16


def test_errors() -> None:
    with pytest.raises(ShapeError, match="bad_dimensions"):
        persistence(np.ones(3))
    with pytest.raises(InputError, match="not_finite"):
        persistence(np.array([[0.0, np.nan]]))
    with pytest.raises(ConfigError, match="unknown_pixels"):
        check_pixels("hexagons")
