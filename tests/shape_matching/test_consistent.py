"""A wrong map among right ones is replaced; files with defects and pieces keep their places."""

from __future__ import annotations

import itertools

import numpy as np
from helpers import bumpy_sphere, moved, permuted, rotation

from geo3d.mesh.mesh import Mesh
from shape_matching.config import MatchConfig
from shape_matching.consistent import Names, PairMaps, cycle_error, make_consistent


def collection(n: int = 4) -> tuple[dict[str, Mesh], dict[str, np.ndarray]]:
    """Return moved, shuffled copies of a shape, and the vertex of the shape for each of theirs."""
    meshes, orders = {}, {}
    for i in range(n):
        copy, order = permuted(moved(bumpy_sphere(2), rotation(i)), seed=i)
        meshes[f"s{i}"], orders[f"s{i}"] = copy, order
    return meshes, orders


def true_maps(orders: dict[str, np.ndarray]) -> dict[Names, PairMaps]:
    inverse = {name: np.argsort(order) for name, order in orders.items()}
    return {
        (a, b): PairMaps(inverse[a][orders[b]], inverse[b][orders[a]])
        for a, b in itertools.combinations(orders, 2)
    }


def test_a_wrong_map_is_replaced_by_what_the_others_say() -> None:
    meshes, orders = collection()
    truth = true_maps(orders)
    rng = np.random.default_rng(0)
    given = dict(truth)
    given["s1", "s3"] = PairMaps(*(rng.permutation(len(p)) for p in truth["s1", "s3"]))
    found = make_consistent(meshes, given, MatchConfig(cache=False), "cpu")
    assert found.names == ("s0", "s1", "s2", "s3") and set(found.maps) == set(truth)
    for pair, maps in found.maps.items():
        assert np.mean(maps.p2p_21 == truth[pair].p2p_21) > 0.95
        assert np.mean(maps.p2p_12 == truth[pair].p2p_12) > 0.95
    numbers = found.pairs
    wrong = numbers.pop(("s1", "s3"))
    assert wrong["agreement"] < 0.05 and wrong["moved"] > 20
    assert all(row["agreement"] > 0.2 and row["moved"] < 1 for row in numbers.values())
    assert found.cycle_before is not None and found.cycle_after is not None
    assert found.cycle_after < 0.5 < 5 < found.cycle_before


def test_a_template_is_enough_and_what_nothing_connects_is_left_out() -> None:
    meshes, orders = collection(5)
    truth = true_maps(orders)
    star = {pair: maps for pair, maps in truth.items() if pair[0] == "s0" and pair[1] != "s4"}
    found = make_consistent(meshes, star, MatchConfig(cache=False), "cpu")
    assert found.names == ("s0", "s1", "s2", "s3")
    assert np.mean(found.maps["s2", "s3"].p2p_21 == truth["s2", "s3"].p2p_21) > 0.95
    assert found.cycle_before is None


def test_vertices_of_other_parts_follow_their_neighbours() -> None:
    meshes, orders = collection(3)
    truth = true_maps(orders)
    whole, n = meshes["s1"], meshes["s1"].n_vertices
    speck = whole.vertices[5] + 0.01 * np.eye(3)
    faces = np.concatenate([whole.faces, [[n, n + 1, n + 2]]])
    meshes["s1"] = Mesh(np.concatenate([whole.vertices, speck]), faces, name="s1")
    given = {}
    for (a, b), maps in truth.items():
        first = np.r_[maps.p2p_21, [-1] * 3] if b == "s1" else maps.p2p_21
        second = np.r_[maps.p2p_12, [-1] * 3] if a == "s1" else maps.p2p_12
        given[a, b] = PairMaps(first, second)
    found = make_consistent(meshes, given, MatchConfig(cache=False), "cpu")
    p2p = found.maps["s0", "s1"].p2p_21
    assert len(p2p) == n + 3 and p2p.min() >= 0
    assert np.mean(p2p[:n] == truth["s0", "s1"].p2p_21) > 0.95
    assert (p2p[n:] == p2p[5]).all()


def test_cycles_of_true_maps_lead_back() -> None:
    meshes, orders = collection(3)
    truth = true_maps(orders)
    assert cycle_error(meshes, truth) == 0.0
    shifted = truth["s0", "s1"]
    truth["s0", "s1"] = PairMaps(np.zeros_like(shifted.p2p_21), shifted.p2p_12)
    found = cycle_error(meshes, truth)
    assert found is not None and found > 5
    del truth["s0", "s1"]
    assert cycle_error(meshes, truth) is None
