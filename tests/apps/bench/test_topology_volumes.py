"""Phantoms have the topology they promise, breaks change one number, terms in 3D mend them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers import icosphere

from apps.bench import topology_volumes as phantoms
from apps.bench.topology_toys import Repair, Toy, descend
from apps.bench.topology_volumes import (
    SURFACE_COLORS,
    VOLUME_TERMS,
    broken_volumes,
    cut_branch,
    false_bridge,
    hollow_body,
    hollowed,
    leak,
    occupancy,
    painted_surface,
    vessel_tree,
)
from geo3d.errors import ConfigError, MeshError, NumericalError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.losses.persistent import topo_term

VOLUMES = {toy.name: toy for toy in broken_volumes(0, 32)}
STEPS = 60


def repair(name: str, term: str) -> Repair:
    return descend(VOLUMES[name], term, STEPS, terms=VOLUME_TERMS)


@pytest.mark.parametrize("seed", [0, 1])
def test_volumes_have_the_topology_they_promise(seed: int) -> None:
    tree, body = vessel_tree(seed, 32), hollow_body(seed, 32)
    assert betti_numbers(tree) == (1, 0, 0) and betti_numbers(body) == (1, 0, 1)
    assert np.array_equal(tree, vessel_tree(seed, 32))
    assert not np.array_equal(tree, vessel_tree(seed + 5, 32))


def test_every_break_changes_one_number() -> None:
    generator = np.random.default_rng(3)
    tree, body = vessel_tree(2, 32), hollow_body(2, 32)
    assert betti_numbers(cut_branch(tree, generator)) == (2, 0, 0)
    assert betti_numbers(false_bridge(tree, generator)) == (1, 1, 0)
    assert betti_numbers(leak(body, generator)) == (1, 0, 0)


def test_broken_volumes() -> None:
    numbers = {n: (betti_numbers(v.true), betti_numbers(v.wrong)) for n, v in VOLUMES.items()}
    assert numbers == {
        "vessels": ((1, 0, 0), (3, 2, 0)),
        "hollow body": ((1, 0, 1), (1, 0, 0)),
        "creature": ((1, 0, 1), (2, 0, 0)),
    }
    for toy in VOLUMES.values():
        mask = (toy.scores[0, 1] > toy.scores[0, 0]).numpy()
        assert betti_numbers(mask) == betti_numbers(toy.wrong)


def test_a_ball_is_filled_where_it_should_be() -> None:
    ball = occupancy(icosphere(3), side=30, margin=2)
    # The volume of a ball of 13 voxels radius, within what an icosphere and a grid lose.
    assert abs(ball.sum() / (4 / 3 * np.pi * 13**3) - 1) < 0.02
    assert ball.any(axis=(0, 1)).sum() == 26 and betti_numbers(ball) == (1, 0, 0)


def test_axes_of_a_mesh_become_those_of_the_grid() -> None:
    ball = icosphere(2)
    long = replace(ball, vertices=ball.vertices * [1.0, 0.5, 0.25])
    extents = [occupancy(long, 32).any(axis=axes).sum() for axes in ((1, 2), (0, 2), (0, 1))]
    assert extents[0] < extents[1] < extents[2] == 28


def test_hollowing_leaves_a_wall() -> None:
    ball = occupancy(icosphere(3), 30)
    shell = hollowed(ball, wall=3.0)
    assert betti_numbers(shell) == (1, 0, 1)
    # Along a line through the middle: in, three voxels, out, three voxels.
    line = shell[15, 15]
    assert line.sum() == 6 and not line[15]
    assert np.array_equal(hollowed(ball, wall=40.0), ball)


def test_bad_phantoms() -> None:
    ball = icosphere(1)
    with pytest.raises(ConfigError, match="small_phantom"):
        vessel_tree(side=8)
    with pytest.raises(MeshError, match="open_mesh"):
        occupancy(replace(ball, faces=ball.faces[1:]))
    with pytest.raises(MeshError, match="open_mesh"):
        occupancy(replace(ball, faces=ball.faces[:0]))


def test_what_cannot_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantoms, "TRIES", 2)
    with pytest.raises(NumericalError, match="no_phantom"):
        leak(np.ones((24, 24, 24), dtype=bool), np.random.default_rng(0))


@pytest.mark.parametrize("name", list(VOLUMES))
def test_warping_mends_everything(name: str) -> None:
    assert repair(name, "warping").repaired


def test_the_cavity_term_closes_a_leak_and_nothing_else() -> None:
    assert repair("hollow body", "cavity").repaired
    assert repair("creature", "cavity").errors[-1] == (1, 0, 0)
    assert repair("vessels", "cavity").errors == [(2, 2, 0)]


def test_recall_joins_branches_and_keeps_bridges() -> None:
    # A tip beyond the end of the skeleton may stay apart.
    errors = repair("vessels", "skeleton_recall").errors
    assert errors[-1][0] < errors[0][0] and errors[-1][1] == errors[0][1] == 2


def test_components_and_cavities_do_not_show_tunnels() -> None:
    terms = {"two": partial(topo_term, dimensions=(0, 2))}
    found = descend(VOLUMES["vessels"], "two", 25, terms=terms)
    assert found.errors[-1] == (0, 2, 0)


@pytest.mark.slow
def test_tunnels_show_false_bridges() -> None:
    assert repair("vessels", "topo_loss").repaired


@pytest.mark.slow
def test_persistence_closes_a_leak() -> None:
    assert descend(VOLUMES["hollow body"], "topo_loss", 100, terms=VOLUME_TERMS).repaired


def test_surfaces_show_what_is_wrong() -> None:
    toy = VOLUMES["vessels"]
    right, added, missing = (set(map(tuple, SURFACE_COLORS[k : k + 1])) for k in range(3))
    colors = painted_surface(toy.true, toy).vertex_colors
    assert colors is not None and set(map(tuple, colors)) == right
    colors = painted_surface(toy.wrong, toy).vertex_colors
    assert colors is not None and set(map(tuple, colors)) == right | added | missing
    almost = toy.true.copy()
    almost[tuple(np.argwhere(toy.true)[0])] = False
    colors = painted_surface(almost, toy).vertex_colors
    assert colors is not None and set(map(tuple, colors)) == right | missing
    empty = np.zeros_like(toy.true)
    assert painted_surface(empty, Toy("nothing", empty, empty)).n_faces == 0
