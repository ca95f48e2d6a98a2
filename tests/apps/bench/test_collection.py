"""The bench of collections reads what is there, and scores it against the true maps."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np

from apps.bench import collection
from apps.bench.collection import CollectionBenchConfig, bench_collection
from shape_matching.collection import MapStore
from shape_matching.consistent import PairMaps

CONFIG = CollectionBenchConfig(kinds=("biped",), shapes=3, vertices=300)


def test_true_maps_have_no_error_and_a_wrong_one_is_counted(tmp_path: Path) -> None:
    shapes = collection._shapes("biped", CONFIG)
    store = MapStore(tmp_path / "biped" / "maps")
    record = {"confidence": 1.0, "probability": 1.0, "ambiguous": False, "is_piece": False}
    for one, two in itertools.combinations(shapes, 2):
        first, second = shapes[one], shapes[two]
        maps = PairMaps(
            first.vertex_ids[second.template_ids], second.vertex_ids[first.template_ids]
        )
        if two.endswith("02") and one.endswith("01"):
            maps = PairMaps(np.zeros_like(maps.p2p_21), maps.p2p_12)
        store.put_matched((one, two), maps, {**record, "notes": [], "seconds": 1.0})
    before, after = bench_collection(tmp_path, replace(CONFIG, workers=1))
    assert before["maps"] == "pairwise" and after["maps"] == "consistent"
    assert before["ordered_pairs"] == 6 and before["wrong"] == 1 and before["median"] == 0
    assert after["cycle_error"] < before["cycle_error"]
    assert after["worst"] < before["worst"]
