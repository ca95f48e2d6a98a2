"""The baselines that repair is measured against, on small masks by hand."""

from __future__ import annotations

import numpy as np
import pytest

from apps.bench import topology_repair_volumes as volumes
from apps.bench.topology_repair import WAYS, _by_chance, _means, best_repair, random_repair
from geo3d.topology.betti import betti_numbers
from geo3d.topology.repair import repair


def broken() -> tuple[np.ndarray, np.ndarray]:
    """Return a true square and probabilities of it with two specks and a pinhole."""
    true = np.zeros((24, 24), dtype=bool)
    true[4:16, 4:16] = True
    p = np.where(true, 0.9, 0.1)
    p[20, 20] = p[2, 21] = 0.6
    p[8, 8] = 0.4
    return true, p


def test_random_repair_makes_as_many_changes_of_each_kind() -> None:
    true, p = broken()
    given, repaired = p > 0.5, repair(p)
    assert repaired.before == (3, 1)
    assert repaired.after == (1, 0)
    for seed in range(5):
        drawn = random_repair(given, repaired, np.random.default_rng(seed))
        assert betti_numbers(drawn) == (1, 0)
    none = repair(np.where(true, 0.9, 0.1))
    assert none.changes == ()
    assert (random_repair(given, none, np.random.default_rng(0)) == given).all()


def test_the_best_repair_has_no_surplus() -> None:
    true, p = broken()
    assert betti_numbers(best_repair(p > 0.5, true)) == betti_numbers(true)
    assert (best_repair(true, p > 0.5) == true).all()


def test_chance_is_told_of_every_way_but_the_ceiling() -> None:
    """Eight of eight images better: of 2^8 signs, two are as far out; three times two tests."""
    worse, better = np.array([4.0, 2.0, 0.0]), np.array([1.0, 2.0, 0.0])
    images = [dict.fromkeys(WAYS, worse) | {"repaired": better} for _ in range(8)]
    assert _means(images)["repaired"] == "1.00 / 2.00 (+0.0000)"
    row = _by_chance(images, 0)
    assert set(row) == set(WAYS) and row["ceiling"] == row["repaired"] == "-"
    first, second = (float(part) for part in row["random"].split(" / "))
    assert 0.02 < first < 0.08 and second == 1.0


@pytest.mark.slow
def test_volumes_are_repaired_beside_random_balls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "SIDE", 24)
    monkeypatch.setattr(volumes, "DRAWS", 1)
    rows = volumes.bench_repair_volumes()
    assert [row["volume"] for row in rows] == ["vessel tree", "hollow body"]

    def total(text: str) -> float:
        return sum(float(part) for part in text.partition(" (")[0].split(" / "))

    tree = rows[0]
    assert total(tree["repaired"]) < total(tree["before"])
    assert total(tree["repaired"]) < total(tree["random"])


def test_random_balls_cut_and_add() -> None:
    mask = np.zeros((12, 12, 12), bool)
    mask[4:8] = True
    drawn = volumes.random_balls(mask, 6, np.random.default_rng(1))
    assert (mask & ~drawn).any() and (drawn & ~mask).any()
    assert (volumes.random_balls(mask, 0, np.random.default_rng(1)) == mask).all()
