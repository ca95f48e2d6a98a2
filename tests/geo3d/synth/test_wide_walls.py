"""Walls made strange: the picture changes, the mortar stays known."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.synth.wall_openings import opening, soft_field
from geo3d.synth.walls import brick_wall
from geo3d.synth.wide_walls import camera, graffiti, repaint, shadows, view, widen

WALL = brick_wall(3, 96, 96, style="running")


def test_the_generator_decides_everything() -> None:
    def one(seed: int) -> tuple[np.ndarray, np.ndarray]:
        return widen(WALL.image, WALL.mask, np.random.default_rng(seed), 64)

    for seed in range(12):
        image, mask = one(seed)
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        assert mask.shape == (64, 64) and mask.dtype == bool
        again = one(seed)
        assert (image == again[0]).all() and (mask == again[1]).all()
    assert (one(0)[0] != one(1)[0]).any()


@pytest.mark.parametrize("seed", range(5))
def test_a_view_moves_image_and_mask_alike(seed: int) -> None:
    drawn = np.repeat(np.uint8(255) * WALL.mask[..., None], 3, axis=-1)
    pixels, share = view(drawn, WALL.mask, np.random.default_rng(seed), 64)
    np.testing.assert_allclose(pixels[..., 0], 255 * share, atol=1e-3)
    assert 0.05 < share.mean() < 0.8


def test_there_is_no_mortar_in_an_opening_and_all_of_it_beside() -> None:
    share = np.ones((64, 64))
    white = np.full((64, 64, 3), 255.0)
    kept = []
    for seed in range(8):
        image, left = opening(white, share, np.random.default_rng(seed))
        assert set(np.unique(left)) <= {0.0, 1.0}
        kept.append(left.mean())
        if left.mean() < 1:
            # what was painted is what has lost its mortar
            changed = abs(image - 255).max(axis=-1) > 130
            assert changed[left == 0].mean() > changed[left == 1].mean()
    assert min(kept) < 0.9 and min(kept) >= 0.25


def test_paint_gives_bricks_and_mortar_colours_of_their_own() -> None:
    share = WALL.mask.astype(float)
    pixels = WALL.image.astype(float)
    before = pixels[WALL.mask].mean(axis=0) - pixels[~WALL.mask].mean(axis=0)
    moved = []
    for seed in range(6):
        out = repaint(pixels, share, np.random.default_rng(seed))
        assert out.min() >= 0 and out.max() <= 255
        after = out[WALL.mask].mean(axis=0) - out[~WALL.mask].mean(axis=0)
        moved.append(abs(after - before).max())
    assert min(moved) > 5


def test_covers_and_camera_keep_the_size() -> None:
    pixels = WALL.image.astype(float)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        for change in (graffiti, shadows, camera):
            assert change(pixels.copy(), rng).shape == pixels.shape
    assert (shadows(pixels, np.random.default_rng(0)) <= pixels + 1e-9).all()


def test_a_soft_field_is_smooth() -> None:
    field = soft_field(np.random.default_rng(0), 64, 4)
    assert abs(np.diff(field, axis=0)).max() < 0.3 and field.std() > 0.2
