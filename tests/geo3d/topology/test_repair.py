"""Repair: hand-made gaps, specks, pinholes and tunnels; costs; what must stay; what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.errors import ConfigError, InputError, ShapeError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.metrics import dice
from geo3d.topology.repair import RepairSettings, repair
from geo3d.topology.repair_basins import basins, joined_basins, regions_apart, ridges_between

ONLY_PIECES = RepairSettings(hole_price=0, basin_depth=0)


def likely(mask: np.ndarray, inside: float = 0.95, outside: float = 0.05) -> np.ndarray:
    return np.where(mask, inside, outside)


def grid_wall(size: int = 41, every: int = 20, thick: int = 3) -> np.ndarray:
    at = np.arange(size) % every < thick
    return at[:, None] | at[None]


def test_a_line_with_a_gap_is_joined_along_the_cheapest_path() -> None:
    mask = np.zeros((9, 30), dtype=bool)
    mask[4, 2:28] = True
    p = likely(mask)
    p[4, 14:16] = 0.4
    repaired = repair(p, ONLY_PIECES)
    assert repaired.before == (2, 0)
    assert repaired.after == (1, 0)
    assert (repaired.mask == mask).all()
    [change] = repaired.changes
    assert (change.kind, change.pixels) == ("join", 2)
    assert change.cost == pytest.approx(2 * np.log(0.6 / 0.4), abs=1e-6)
    assert change.at in ((4, 14), (4, 15))


def test_a_speck_far_away_is_removed_and_a_sure_piece_stays() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[20, 2:25] = True
    mask[5, 50] = True
    mask[30:38, 45:55] = True
    p = likely(mask, outside=0.001)
    p[5, 50] = 0.6
    repaired = repair(p, RepairSettings(component_price=20, basin_depth=0))
    assert repaired.before == (3, 0)
    assert repaired.after == (2, 0)
    assert not repaired.mask[5, 50]
    [change] = repaired.changes
    assert (change.kind, change.at) == ("remove", (5, 50))
    assert change.cost == pytest.approx(np.log(0.6 / 0.4))


def test_pinholes_are_filled_and_true_holes_stay() -> None:
    mask = grid_wall()
    p = likely(mask)
    p[1, 10] = 0.45
    repaired = repair(p)
    assert repaired.before == (1, 5)
    assert (repaired.mask == mask).all()
    assert [change.kind for change in repaired.changes] == ["fill"]


def test_a_gap_between_two_bricks_is_closed_along_the_ridge() -> None:
    mask = grid_wall(63, 20, 3)
    p = likely(mask)
    p[20:23, 30] = 0.3
    assert betti_numbers(p > 0.5) == (1, 8)
    repaired = repair(p)
    assert repaired.after == betti_numbers(mask) == (1, 9)
    assert [change.kind for change in repaired.changes] == ["close"]
    assert dice(repaired.mask, mask) > 0.99
    assert repair(p, RepairSettings(gap_price=0.5)).after == (1, 8)
    assert repair(p, RepairSettings(basin_depth=0)).after == (1, 8)


def test_a_faint_line_through_a_brick_is_cut() -> None:
    mask = grid_wall(43, 20, 3)
    p = likely(mask)
    p[10, 3:20] = 0.55
    p[10, 3:9] = 0.35
    # The line is whole through a detour that is only just likely.
    p[9, 3:9] = 0.51
    assert betti_numbers(p > 0.5)[1] == 5
    repaired = repair(p, RepairSettings(ridge_height=1))
    assert repaired.after == (1, 4)
    assert "cut" in [change.kind for change in repaired.changes]


def test_a_ring_of_the_border_is_no_hole_and_stays() -> None:
    mask = grid_wall(43, 20, 3)
    repaired = repair(likely(mask))
    assert repaired.changes == ()
    assert (repaired.mask == mask).all()


@pytest.mark.parametrize("pixels", ["cells", "vertices"])
def test_no_feature_is_added_by_prices_alone(pixels: str) -> None:
    generator = np.random.default_rng(4)
    for _ in range(3):
        p = generator.random((24, 30))
        settings = RepairSettings(
            component_price=1e9,
            hole_price=1e9,
            basin_depth=0,
            pixels=pixels,  # type: ignore[arg-type]
        )
        assert repair(p, settings).after == (1, 0)


def test_volumes_lose_pieces_cavities_and_tunnels() -> None:
    mask = np.zeros((16, 16, 16), dtype=bool)
    mask[2:14, 2:14, 2:14] = True
    p = likely(mask)
    p[8, 8, 8] = 0.4
    p[15, 15, 1] = 0.55
    p[5, 5, 1:15] = 0.45
    repaired = repair(p)
    assert repaired.before == (2, 1, 1)
    assert repaired.after == (1, 0, 0)
    assert dice(repaired.mask, mask) > 0.99


def test_a_false_handle_is_cut_and_a_sure_ring_stays() -> None:
    z, y, x = np.mgrid[:9, :30, :30]
    ring = (np.hypot(np.hypot(y - 14.5, x - 14.5) - 10, z - 4) < 2.2) & (z > 0)
    p = likely(ring)
    p[4, 14, 4:26] = np.maximum(p[4, 14, 4:26], 0.9)
    p[4, 14, 15] = 0.55
    repaired = repair(p)
    assert repaired.before == (1, 2, 0)
    assert repaired.after == (1, 1, 0)
    assert not repaired.mask[4, 14, 15]
    assert [change.kind for change in repaired.changes] == ["open"]


def test_basins_and_ridges_by_hand() -> None:
    heights = np.array([[-9.0, -9, 5, -9, -9, -1, -9, -9]] * 3)
    heights = np.pad(heights, 1, constant_values=8.0)
    found = basins(heights, 2.0, corners=False)
    assert found.shape == (7, 12)
    assert len(np.unique(found[3])) == 5
    ridges = ridges_between(found)
    inner = {pair: len(pixels) for pair, pixels in ridges.items() if 1 not in pair}
    assert sorted(inner.values()) == [3, 3]
    group = joined_basins(ridges, np.pad(heights, 1), int(found.max()), 0.0)
    assert len(np.unique(group[1:])) == 3
    groups, apart = regions_apart(heights, 2.0, 0.0, 1.0, corners=False)
    assert apart[1:-1, 3].all()
    assert not apart[1:-1, 6].any()
    assert len(np.unique(groups[2][heights[2] < 0])) == 2


def test_masks_of_one_kind_are_left_alone() -> None:
    for value in (0.1, 0.9):
        repaired = repair(np.full((5, 5), value))
        assert repaired.changes == ()
        assert repaired.before == repaired.after


def test_what_is_refused() -> None:
    with pytest.raises(ShapeError, match="not_probabilities"):
        repair(np.array([[0.0, 3.0]]))
    with pytest.raises(InputError, match="not_finite"):
        repair(np.array([[0.0, np.nan]]))
    with pytest.raises(ConfigError, match="bad_price"):
        repair(np.ones((3, 3)), RepairSettings(hole_price=-1))
    with pytest.raises(ShapeError, match="bad_dimensions"):
        repair(np.ones(3))
