"""Errors and qualities of maps: by hand, by brute force, and under motions that must not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, icosphere, moved, permuted, rotation, tetrahedron

from geo3d.errors import InputError, NumericalError
from geo3d.mesh.geodesic import exact_distances, heat_distances
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area, vertex_areas
from shape_matching.evaluate import metrics, scoring
from shape_matching.evaluate.scoring import DistanceTable, SourceScorer
from shape_matching.evaluate.truth import PairTruth


def identity_truth(mesh: Mesh) -> PairTruth:
    ids = np.arange(mesh.n_vertices)
    return PairTruth(ids, ids)


def test_pck_and_auc_by_hand() -> None:
    errors = np.array([0.0, 0.1, 0.1, 0.3])
    thresholds = np.array([0.0, 0.1, 0.2])
    curve = metrics.pck(errors, thresholds)
    assert curve.tolist() == [0.25, 0.75, 0.75]
    # trapezoids (0.25 + 0.75)/2 and 0.75 over an axis scaled to 1
    assert metrics.auc(curve, thresholds) == pytest.approx((0.5 + 0.75) / 2)


def test_perfect_map_has_auc_1() -> None:
    curve = metrics.pck(np.zeros(5), metrics.THRESHOLDS_ULRSSM)
    assert metrics.auc(curve, metrics.THRESHOLDS_ULRSSM) == pytest.approx(1.0)


def test_minimum_error_per_point_and_per_map() -> None:
    direct, mirrored = np.array([0.0, 0.4]), np.array([0.3, 0.0])
    assert metrics.minimum_error(direct, mirrored) == pytest.approx((0.0, 0.15))


def test_coverage_weighs_by_area() -> None:
    areas = np.array([1.0, 2.0, 5.0])
    assert metrics.coverage(np.array([1, 1, 0]), areas) == pytest.approx(3 / 8)


def test_error_of_a_tetrahedron_by_hand() -> None:
    mesh = tetrahedron()
    scorer = SourceScorer(mesh, "heat")
    # everything is sent to vertex 1; the truth is the identity
    score, errors = scorer.score(mesh, identity_truth(mesh), np.array([1, 1, 1, 1]))
    distances = heat_distances(mesh, [1])[0]
    expected = distances / np.sqrt(1.5 + np.sqrt(3) / 2)
    np.testing.assert_allclose(errors, expected, rtol=1e-6)
    assert score.error == pytest.approx(100 * expected.mean(), rel=1e-6)
    assert score.median_error == pytest.approx(100 * np.median(expected), rel=1e-6)
    assert score.coverage == pytest.approx(vertex_areas(mesh)[1] / total_area(mesh))
    assert score.smoothness == pytest.approx(0.0) and score.orientation == 0.0


def test_repeated_entries_weigh_as_often_as_listed() -> None:
    mesh = tetrahedron()
    truth = PairTruth(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1]))
    score, _ = SourceScorer(mesh).score(mesh, truth, np.array([0, 0, 2, 3]))
    alone = heat_distances(mesh, [0])[0, 1] / np.sqrt(total_area(mesh))
    assert score.error == pytest.approx(100 * alone / 4, rel=1e-6)


def test_identity_is_perfect() -> None:
    mesh = bumpy_sphere(2)
    ids = np.arange(mesh.n_vertices)
    score, errors = SourceScorer(mesh).score(mesh, identity_truth(mesh), ids, ids)
    assert errors.max() == 0 and score.error == 0 and score.bijectivity == 0
    assert score.coverage == pytest.approx(1) and score.smoothness == pytest.approx(1)
    # not 1: a bumpy triangle's normal is not its vertices' mean normal
    assert 0.98 < score.orientation <= 1
    assert score.pck[0] == score.entries == mesh.n_vertices


def test_scores_ignore_scale_and_motion_and_vertex_order() -> None:
    source, target = bumpy_sphere(2), bumpy_sphere(2, seed=1)
    n = source.n_vertices
    rng = np.random.default_rng(0)
    p2p_21, p2p_12 = rng.integers(n, size=n), rng.integers(n, size=n)
    truth = PairTruth(rng.integers(n, size=50), rng.integers(n, size=50), rng.integers(n, size=50))
    plain, _ = SourceScorer(source).score(target, truth, p2p_21, p2p_12)
    far, _ = SourceScorer(moved(source, 7.5 * rotation(1), 30.0)).score(
        moved(target, 0.01 * rotation(2)), truth, p2p_21, p2p_12
    )
    shuffled, order = permuted(source, seed=5)
    where = np.argsort(order)
    other, _ = SourceScorer(shuffled).score(
        target,
        PairTruth(where[truth.source], truth.target, truth.target_sym),
        where[p2p_21],
        p2p_12[order],
    )
    for score in (far, other):
        for name in (
            "error median_error max_error error_best_side error_best_map coverage smoothness "
            "bijectivity orientation"
        ).split():
            assert getattr(score, name) == pytest.approx(getattr(plain, name), rel=2e-4), name


def test_mirrored_map_scores_as_its_symmetric_twin() -> None:
    mesh = icosphere(2)
    mirror = np.argmin(
        np.linalg.norm(mesh.vertices[:, None] * [-1, 1, 1] - mesh.vertices[None], axis=2), axis=1
    )
    ids = np.arange(mesh.n_vertices)
    truth = PairTruth(ids, ids, target_sym=mirror)
    score, _ = SourceScorer(mesh).score(mesh, truth, mirror)
    assert score.error > 10
    assert score.error_best_side == 0 and score.error_best_map == 0
    assert score.orientation < -0.98 and score.smoothness == pytest.approx(1)


def test_bijectivity_measures_the_way_there_and_back() -> None:
    mesh = grid(6)
    n = mesh.n_vertices
    ids = np.arange(n)
    back = np.roll(ids, 1)
    score, _ = SourceScorer(mesh).score(mesh, identity_truth(mesh), back, ids)
    steps = np.array([heat_distances(mesh, back[i : i + 1])[0, i] for i in ids])
    expected = np.average(steps, weights=vertex_areas(mesh)) / np.sqrt(total_area(mesh))
    assert score.bijectivity == pytest.approx(100 * expected, rel=1e-5)


def test_smoothness_grows_with_noise_and_vanishes_for_a_constant_map() -> None:
    mesh = bumpy_sphere(2)
    scorer, truth = SourceScorer(mesh), identity_truth(mesh)
    rng = np.random.default_rng(0)
    noisy = np.arange(mesh.n_vertices)
    noisy[::5] = rng.integers(mesh.n_vertices, size=len(noisy[::5]))
    assert scorer.score(mesh, truth, noisy)[0].smoothness > 2
    assert scorer.score(mesh, truth, np.zeros_like(noisy))[0].smoothness == pytest.approx(0)


def test_distances_agree_with_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = bumpy_sphere(2)
    n = mesh.n_vertices
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(n, size=400), rng.integers(n, size=400)
    full = heat_distances(mesh, np.arange(n))[sources, targets].astype(np.float32)
    kept = DistanceTable(mesh).between(sources, targets)
    monkeypatch.setattr(scoring, "MAX_TABLE_BYTES", 10)
    forgotten = DistanceTable(mesh).between(sources, targets)
    np.testing.assert_array_equal(kept, full)
    np.testing.assert_array_equal(forgotten, full)


def test_cached_distances_are_equal_and_unfinished_rows_are_made_again(tmp_path: Path) -> None:
    mesh = bumpy_sphere(1)
    ids = np.arange(mesh.n_vertices)
    fresh = DistanceTable(mesh).between(ids, ids[::-1])
    first = DistanceTable(mesh, cache=tmp_path).between(ids[:20], ids[::-1][:20])
    (file,) = tmp_path.iterdir()
    table = np.load(file, mmap_mode="r+")
    assert np.isnan(table[30:]).all()
    table[3, 5:] = np.nan
    table.flush()
    again = DistanceTable(mesh, cache=tmp_path).between(ids, ids[::-1])
    np.testing.assert_array_equal(again, fresh)
    np.testing.assert_array_equal(first, fresh[:20])


def test_exact_distances_are_an_option() -> None:
    pytest.importorskip("igl")
    mesh = grid(5)
    ids = np.arange(mesh.n_vertices)
    found = DistanceTable(mesh, "exact").between(np.zeros_like(ids), ids)
    np.testing.assert_allclose(found, exact_distances(mesh, [0])[0], rtol=1e-6)
    # on a flat grid with these diagonals the exact distance is the straight line
    np.testing.assert_allclose(found, np.linalg.norm(mesh.vertices, axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("p2p", "code"),
    [
        (np.array([0, 1, 2]), "map.wrong_length"),
        (np.array([0, 1, 2, 4]), "map.index_out_of_range"),
        (np.array([-1, 1, 2, 3]), "map.index_out_of_range"),
    ],
)
def test_maps_that_are_no_maps_are_refused(p2p: np.ndarray, code: str) -> None:
    mesh = tetrahedron()
    with pytest.raises(InputError) as caught:
        SourceScorer(mesh).score(mesh, identity_truth(mesh), p2p)
    assert caught.value.code == code


def test_shapes_without_area_are_refused() -> None:
    flat = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]), name="flat")
    with pytest.raises(NumericalError) as caught:
        SourceScorer(flat)
    assert caught.value.code == "evaluate.no_area"


@pytest.mark.golden
def test_golden_error_agrees(golden_root: Path) -> None:
    path = golden_root / "diffumatch" / "geodesic_error.npz"
    if not path.is_file():
        pytest.skip("no such case")
    from golden.cases_evaluation import check_geodesic_error

    check_geodesic_error(path)
