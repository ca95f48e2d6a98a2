"""Permutation tests against exact enumeration, and corrections against hand-worked cases."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from geo3d.errors import ConfigError, InputError
from geo3d.segmentation.measures import METRICS, Measures
from geo3d.segmentation.significance import (
    Procedure,
    compare_with_baseline,
    holm,
    sign_flip_p,
)
from geo3d.segmentation.tables import Setting, topomortar_groups

IDS = tuple(f"{i:03d}" for i in (*range(71, 81), *range(121, 131), *range(171, 176)))


def measures(values: np.ndarray) -> Measures:
    return Measures(IDS, dict.fromkeys(METRICS, values.astype(np.float64)))


def enumerated(d: np.ndarray, weights: np.ndarray) -> float:
    sums = np.array([(np.array(s) * d * weights).sum() for s in product((-1, 1), repeat=len(d))])
    return float(np.mean(np.abs(sums) >= abs((d * weights).sum()) - 1e-12))


def test_few_pairs_are_enumerated() -> None:
    assert sign_flip_p(np.array([1.0, 1.0, 1.0]), np.random.default_rng(0)) == 2 / 8
    d, w = np.array([3.0, -1.0, 2.0, 0.5, 0.0]), np.array([0.1, 0.3, 0.2, 0.2, 0.2])
    assert sign_flip_p(d, np.random.default_rng(0), weights=w) == enumerated(d, w)


def test_random_patterns_agree_with_all_of_them() -> None:
    d = np.random.default_rng(3).normal(0.3, 1, 12)
    exact = enumerated(d, np.full(12, 1 / 12))
    drawn = sign_flip_p(d, np.random.default_rng(0), 4000)
    assert drawn == pytest.approx(exact, abs=0.03)
    assert drawn != exact
    again = sign_flip_p(d, np.random.default_rng(0), 4000)
    assert again == drawn


def test_the_published_p_is_one_sided() -> None:
    d = np.random.default_rng(5).normal(0.1, 1, 200)
    two = sign_flip_p(d, np.random.default_rng(0))
    one = sign_flip_p(d, np.random.default_rng(0), compat=True)
    assert one == pytest.approx(two / 2, abs=0.01)
    assert sign_flip_p(-d, np.random.default_rng(1)) == pytest.approx(two, abs=0.02)
    assert sign_flip_p(d + 9, np.random.default_rng(0), compat=True) == 0
    assert sign_flip_p(d + 9, np.random.default_rng(0)) == 1 / 10_001


def test_undefined_pairs_are_left_out() -> None:
    d = np.array([1.0, np.nan, 1.0])
    assert sign_flip_p(d, np.random.default_rng(0)) == 2 / 4
    with pytest.raises(InputError, match=r"significance\.no_pairs"):
        sign_flip_p(np.array([np.nan]), np.random.default_rng(0))
    with pytest.raises(ConfigError, match=r"significance\.permutations"):
        sign_flip_p(d, np.random.default_rng(0), 0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_alike_losses_are_rarely_called_different() -> None:
    """Under no difference the p-value is uniform: 5 % of the tests are below 0.05."""
    generator = np.random.default_rng(11)
    p = [sign_flip_p(generator.normal(size=40), generator, 400) for _ in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def family(shift: float, compat: bool) -> dict[tuple[str, str], object]:
    base, noise = np.random.default_rng(0), np.random.default_rng(1)
    names = [Setting("supervised", "accurate", "large", loss) for loss in ("ce_dice", "better")]
    level = base.normal(5, 2, len(IDS))
    runs = {
        setting: {
            str(s): measures(level + noise.normal(0, 0.1, len(IDS)) - k * shift) for s in range(3)
        }
        for k, setting in enumerate(names)
    }
    found = compare_with_baseline(runs, topomortar_groups(), Procedure(2000, compat=compat))
    return {(c.split, c.metric): c for c in found}


def test_a_lower_error_is_better_and_a_lower_overlap_is_not() -> None:
    found = family(1.0, compat=False)
    assert set(found) == {(s, m) for s in ("ID", "OOD") for m in METRICS}
    error, overlap = found["ID", "Betti0"], found["OOD", "Dice"]
    assert error.better and not overlap.better
    assert error.difference == pytest.approx(-1, abs=0.1)
    assert error.n_pairs == 10 and overlap.n_pairs == 15
    assert error.p < 0.01
    assert [c.p_corrected for c in found.values()] == holm([c.p for c in found.values()])
    assert all(c.p <= c.p_corrected <= 1 for c in found.values())


def test_compat_pairs_images_and_seeds() -> None:
    found = family(1.0, compat=True)
    assert found["ID", "Betti0"].n_pairs == 30
    assert found["ID", "Betti0"].p == found["ID", "Betti0"].p_corrected == 0


def test_unequal_runs_are_refused() -> None:
    one, two = (Setting("supervised", "accurate", "large", n) for n in ("CEDice", "clDice"))
    values = np.ones(len(IDS))
    shorter = Measures(IDS[:-1], dict.fromkeys(METRICS, values[:-1]))
    with pytest.raises(InputError, match=r"significance\.unequal_images"):
        compare_with_baseline({one: {"0": measures(values)}, two: {"0": shorter}}, {})
    runs = {one: {"0": measures(values)}, two: {"1": measures(values)}}
    with pytest.raises(InputError, match=r"significance\.unequal_seeds"):
        compare_with_baseline(runs, topomortar_groups(), Procedure(compat=True))


@pytest.mark.parametrize(("compat", "expected"), [(False, 1.0), (True, 0.0)])
def test_a_single_pair_says_nothing(compat: bool, expected: float) -> None:
    p = sign_flip_p(np.array([0.7]), np.random.default_rng(0), permutations=20, compat=compat)
    assert p == expected
