"""Matching end to end: known maps come back, whatever the pose, order, start or resolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import bumpy_sphere, icosphere, moved, permuted, rotation
from scipy.spatial import KDTree

from geo3d.config import load_config
from geo3d.errors import Cancelled, Geo3dError
from geo3d.files import asset
from geo3d.mesh.decimate import decimate
from geo3d.mesh.io import load_mesh
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area
from shape_matching.config import MatchConfig
from shape_matching.correspondence import Correspondence
from shape_matching.match import match

FAST = load_config(MatchConfig, preset="fast")
SMALL = replace(FAST, k_final=40, starts=("wks",))
"""A single start is enough for exact copies of bumpy spheres."""
COARSE = replace(FAST, max_vertices=1000, coarse_vertices=700)


@pytest.fixture(scope="module")
def quadruped() -> Mesh:
    """Return a four-legged creature: symmetric, with thin limbs."""
    return load_mesh(asset("shapes/off/quadruped1.off"))


@pytest.fixture(scope="module")
def turned(quadruped: Mesh) -> tuple[Mesh, np.ndarray]:
    """Return the creature moved and shuffled, and the true map."""
    return permuted(moved(quadruped, 3.0 * rotation(1), 5.0), seed=2)


@pytest.fixture(scope="module")
def small() -> tuple[Mesh, Mesh, np.ndarray]:
    """Return a small shape, its moved and shuffled copy, and the true map."""
    mesh = bumpy_sphere(2)
    return mesh, *permuted(moved(mesh, rotation(1)), seed=2)


def error(found: Correspondence, truth: np.ndarray) -> float:
    """Return the mean straight distance from the truth, in units of sqrt(area)."""
    vertices = found.source.vertices
    gaps = np.linalg.norm(vertices[found.p2p_21] - vertices[truth], axis=1)
    return float(gaps.mean()) / total_area(found.source) ** 0.5


def check_form(found: Correspondence) -> None:
    n1, n2 = found.source.n_vertices, found.target.n_vertices
    for images, count, limit in ((found.p2p_21, n2, n1), (found.p2p_12, n1, n2)):
        assert images.shape == (count,) and images.dtype == np.int64
        assert images.min() >= 0 and images.max() < limit
    assert found.confidence.shape == (n2,)
    assert found.confidence.min() >= 0 and found.confidence.max() <= 1
    assert found.fmap_12 is not None and found.fmap_12.dtype == np.float64
    assert np.isfinite(found.fmap_12).all() and all(map(np.isfinite, found.scores.values()))


def test_a_moved_and_shuffled_creature(quadruped: Mesh, turned: tuple[Mesh, np.ndarray]) -> None:
    target, truth = turned
    found = match(quadruped, target, FAST)
    check_form(found)
    assert found.source is quadruped and found.target is target
    assert error(found, truth) < 1e-3
    assert (found.p2p_12[found.p2p_21] == np.arange(target.n_vertices)).mean() > 0.99
    assert found.confidence.mean() > 0.99 and found.scores["orientation"] > 0.9


def test_equal_inputs_give_equal_results(small: tuple[Mesh, Mesh, np.ndarray]) -> None:
    source, target, _ = small
    config = replace(SMALL, cache=False)
    # other objects of the same content, so that nothing is remembered
    copies = [Mesh(m.vertices, m.faces) for m in (source, target)]
    found, again = match(source, target, config), match(*copies, config)
    assert found.scores == again.scores
    for name in ("p2p_21", "p2p_12", "fmap_12", "confidence"):
        assert np.array_equal(getattr(found, name), getattr(again, name))


def test_a_remeshed_creature_turned_in_space(quadruped: Mesh) -> None:
    remeshed = decimate(quadruped, 1300).mesh
    truth = KDTree(quadruped.vertices).query(remeshed.vertices)[1]
    found = match(quadruped, moved(remeshed, rotation(4), -2.0), FAST)
    check_form(found)
    assert error(found, truth) < 0.02


@pytest.mark.slow
def test_turning_a_remeshed_creature_hardly_changes_the_map(quadruped: Mesh) -> None:
    """Tangent frames and the order of sums differ, little else."""
    remeshed = decimate(quadruped, 1300).mesh
    found, other = (
        match(quadruped, m, FAST) for m in (remeshed, moved(remeshed, rotation(4), -2.0))
    )
    assert error(other, found.p2p_21) < 0.005


def test_mirroring_both_shapes_gives_the_same_map(small: tuple[Mesh, Mesh, np.ndarray]) -> None:
    source, target, truth = small
    mirrored = [Mesh(m.vertices * [1.0, -1, 1], m.faces[:, ::-1]) for m in (source, target)]
    found = match(*mirrored, SMALL)
    assert error(found, truth) < 1e-6 and found.scores["orientation"] > 0.9


def test_a_mirror_image_is_told_by_its_orientation(small: tuple[Mesh, Mesh, np.ndarray]) -> None:
    source, target, truth = small
    mirror = Mesh(target.vertices * [1.0, -1, 1], target.faces[:, ::-1])
    found = match(source, mirror, SMALL)
    # a shape without symmetry has one intrinsic map, and it turns the surface over
    assert error(found, truth) < 1e-6 and found.scores["orientation"] < -0.9


def test_scale_and_units_do_not_matter(small: tuple[Mesh, Mesh, np.ndarray]) -> None:
    source, target, truth = small
    for scale in (1e-4, 1e4):
        assert error(match(source, moved(target, scale * np.eye(3)), SMALL), truth) < 1e-6
    single = Mesh(target.vertices.astype(np.float32), target.faces)
    assert error(match(source, single, SMALL), truth) < 1e-6


def test_direction_of_maps(small: tuple[Mesh, Mesh, np.ndarray]) -> None:
    """Swapped shapes swap p2p_21 and p2p_12; fmap_12 is (k2, k1)."""
    source, target, truth = small
    forward, backward = match(source, target, SMALL), match(target, source, SMALL)
    assert np.array_equal(forward.p2p_21, truth)
    assert np.array_equal(backward.p2p_21, np.argsort(truth))
    assert np.array_equal(forward.p2p_12, backward.p2p_21)
    assert forward.fmap_12 is not None and backward.fmap_12 is not None
    np.testing.assert_allclose(forward.fmap_12, backward.fmap_12.T, atol=1e-3)


def test_landmarks_replace_the_search(quadruped: Mesh, turned: tuple[Mesh, np.ndarray]) -> None:
    target, truth = turned
    chosen = np.arange(0, target.n_vertices, 300)
    landmarks = np.stack([truth[chosen], chosen], axis=1)
    events: list[Mapping[str, Any]] = []
    found = match(quadruped, target, FAST, landmarks=landmarks, progress=events.append)
    check_form(found)
    assert error(found, truth) < 1e-3
    assert not any(e["stage"] == "hypotheses" and e["step"] == 0 for e in events)


def test_landmarks_hold_in_the_result(small: tuple[Mesh, Mesh, np.ndarray]) -> None:
    source, target, truth = small
    chosen = np.arange(0, target.n_vertices, 20)
    landmarks = np.stack([truth[chosen], chosen], axis=1)
    landmarks[2, 0] = KDTree(source.vertices).query(source.vertices[landmarks[2, 0]], 2)[1][1]
    found = match(source, target, SMALL, landmarks=landmarks)
    assert np.array_equal(found.p2p_21[landmarks[:, 1]], landmarks[:, 0])
    assert np.array_equal(found.p2p_12[landmarks[:, 0]], landmarks[:, 1])
    assert np.mean(found.p2p_21 == truth) > 0.9


def test_landmarks_choose_the_side(quadruped: Mesh) -> None:
    """On a symmetric shape landmarks of the mirrored side give the mirrored map."""
    mirror_vertices = quadruped.vertices.copy()
    spans = [
        KDTree(quadruped.vertices).query(quadruped.vertices * flip)[0].mean()
        for flip in (np.array([-1.0, 1, 1]), np.array([1.0, -1, 1]), np.array([1.0, 1, -1]))
    ]
    axis = int(np.argmin(spans))
    mirror_vertices[:, axis] *= -1
    mirror = KDTree(quadruped.vertices).query(mirror_vertices)[1]
    chosen = np.arange(0, quadruped.n_vertices, 150)
    landmarks = np.stack([mirror[chosen], chosen], axis=1)
    found = match(quadruped, quadruped, FAST, landmarks=landmarks)
    assert error(found, mirror) < 0.05 < error(found, np.arange(quadruped.n_vertices))
    assert found.scores["orientation"] < 0


def test_a_given_map_is_refined(quadruped: Mesh, turned: tuple[Mesh, np.ndarray]) -> None:
    target, truth = turned
    rng = np.random.default_rng(0)
    rough = truth.copy()
    wrong = rng.random(len(rough)) < 0.3
    rough[wrong] = rng.integers(0, quadruped.n_vertices, wrong.sum())
    rough.flags.writeable = False
    found = match(quadruped, target, FAST, initial_map=rough.astype(np.int32))
    assert error(found, truth) < 1e-3 < 0.05 < error(replace(found, p2p_21=rough), truth)


def test_large_meshes_are_decimated_and_carried_back(
    quadruped: Mesh, turned: tuple[Mesh, np.ndarray]
) -> None:
    target, truth = turned
    chosen = np.arange(0, target.n_vertices, 300)
    landmarks = np.stack([truth[chosen], chosen], axis=1)
    given: dict[str, Any] = {"landmarks": landmarks, "initial_map": truth}
    for name, value in given.items():
        events: list[Mapping[str, Any]] = []
        found = match(quadruped, target, COARSE, progress=events.append, **{name: value})
        check_form(found)
        assert found.source is quadruped and found.target is target
        assert error(found, truth) < 0.02
        assert found.confidence.mean() > 0.8
        assert "carried back to 1742 and 1742" in found.notes[-1]
        stages = list(dict.fromkeys(e["stage"] for e in events))
        assert stages[0] == "decimation" and stages[-1] == "upsampling"


@pytest.mark.slow
def test_large_meshes_without_a_start(quadruped: Mesh, turned: tuple[Mesh, np.ndarray]) -> None:
    target, truth = turned
    assert error(match(quadruped, target, COARSE), truth) < 0.02
    # one of the two below the limit is not touched
    little = decimate(quadruped, 600).mesh
    found = match(quadruped, little, COARSE)
    check_form(found)
    nearest = KDTree(quadruped.vertices).query(little.vertices)[1]
    assert error(found, nearest) < 0.04


def test_point_clouds_match_each_other_and_meshes(small: tuple[Mesh, Mesh, np.ndarray]) -> None:
    source, target = bumpy_sphere(3), permuted(bumpy_sphere(3))[0]
    truth = permuted(bumpy_sphere(3))[1]
    dots = [Mesh(m.vertices, np.zeros((0, 3), np.int64), name="dots") for m in (source, target)]
    for one, two in ((source, dots[1]), dots):
        found = match(one, two, SMALL)
        gaps = np.linalg.norm(source.vertices[found.p2p_21] - source.vertices[truth], axis=1)
        assert gaps.mean() < 0.05
        assert any("point cloud" in note for note in found.notes)
        assert found.scores["orientation"] > 0.5


def test_non_manifold_meshes_match() -> None:
    mesh = bumpy_sphere(2)
    a, b = mesh.faces[0, :2]
    fin = Mesh(
        np.concatenate([mesh.vertices, 1.3 * mesh.vertices[[0]]]),
        np.concatenate([mesh.faces, [[a, b, 162]]]),
    )
    target, truth = permuted(moved(fin, rotation(5)))
    assert error(match(fin, target, SMALL), truth) < 0.01


def test_parts_are_matched_and_noted() -> None:
    one, two = bumpy_sphere(2), moved(bumpy_sphere(2, seed=3), 0.8 * np.eye(3), 5.0)
    vertices = np.concatenate([one.vertices, two.vertices])
    both = Mesh(vertices, np.concatenate([one.faces, two.faces + 162]), name="both")
    target, truth = permuted(both)
    found = match(both, target, SMALL)
    assert error(found, truth) < 0.01
    assert found.notes[1] == "both_permuted: separated 1 smaller piece."
    assert found.notes[2] == "1 further part was matched with its counterpart."


def test_small_parts_without_samples_are_survived() -> None:
    """Many crumbs have a constant function each, and fewer samples than functions."""
    crumb = Mesh(np.eye(3) * 0.01, np.array([[0, 1, 2]]))
    body = bumpy_sphere(3)
    parts = [body] + [moved(crumb, np.eye(3), 1.7 * row) for row in rotation(0)]
    offsets = np.cumsum([0] + [p.n_vertices for p in parts])
    shape = Mesh(
        np.concatenate([p.vertices for p in parts]),
        np.concatenate([p.faces + o for p, o in zip(parts, offsets, strict=False)]),
    )
    check_form(match(shape, permuted(shape)[0], replace(SMALL, n_samples=100)))


def test_smallest_meshes_and_unequal_sizes() -> None:
    flat = Mesh(
        np.random.default_rng(0).standard_normal((56, 3)) * 0.02 + _grid_points(8, 7), _GRID_FACES
    )
    target, truth = permuted(flat)
    found = match(flat, target, FAST)
    check_form(found)
    assert error(found, truth) < 1e-6
    check_form(match(flat, bumpy_sphere(2), SMALL))
    check_form(match(bumpy_sphere(2), flat, SMALL))


def _grid_points(n: int, m: int) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 0.8, m))
    return np.stack([x.ravel(), y.ravel(), 0.3 * (x * y).ravel()], axis=1)


_CORNER = (np.arange(6)[:, None] * 8 + np.arange(7)[None]).ravel()
_GRID_FACES = np.concatenate(
    [
        np.stack([_CORNER, _CORNER + 1, _CORNER + 9], axis=1),
        np.stack([_CORNER, _CORNER + 9, _CORNER + 8], axis=1),
    ]
)


@pytest.mark.parametrize(
    "change", [{"precise": True}, {"icp_iterations": 2}, {"laplacian": "robust"}]
)
def test_options_keep_the_right_map(
    small: tuple[Mesh, Mesh, np.ndarray], change: dict[str, Any]
) -> None:
    source, target, truth = small
    assert error(match(source, target, replace(SMALL, **change)), truth) < 1e-6


def test_left_and_right_are_told_apart_by_the_side_that_faces_outwards() -> None:
    """On points too, whose normals are estimated."""
    sphere = icosphere(2)
    x, y, z = sphere.vertices.T
    radius = 1.0 + 0.3 * y + 0.25 * z**3 + 0.2 * x**2 * z  # even in x
    mesh = Mesh(sphere.vertices * radius[:, None], sphere.faces)
    cloud = Mesh(mesh.vertices, np.zeros((0, 3), np.int64))
    for shape in (mesh, cloud):
        found = match(shape, permuted(shape)[0], replace(SMALL, starts=("signs",)))
        assert not found.ambiguous
        assert not any("three landmarks" in note for note in found.notes)
        truth = permuted(shape)[1]
        assert (
            np.linalg.norm(cloud.vertices[found.p2p_21] - cloud.vertices[truth], axis=1).mean()
            < 0.1
        )


def test_progress_counts_up_within_stages(small: tuple[Mesh, Mesh, np.ndarray]) -> None:
    events: list[Mapping[str, Any]] = []
    match(small[0], small[1], SMALL, progress=events.append)
    assert {"eigenbasis", "hypotheses", "coupled refinement"} <= {e["stage"] for e in events}
    for stage in {e["stage"] for e in events}:
        steps = [(e["step"], e["total"]) for e in events if e["stage"] == stage]
        assert steps == sorted(steps) and steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("stage", ["eigenbasis", "hypotheses", "coupled refinement", "decimation"])
def test_a_listener_can_cancel_anywhere(small: tuple[Mesh, Mesh, np.ndarray], stage: str) -> None:
    seen: list[str] = []

    def stop(event: Mapping[str, Any]) -> None:
        seen.append(event["stage"])
        if event["stage"] == stage:
            raise Cancelled

    config = replace(SMALL, max_vertices=150, coarse_vertices=120)
    with pytest.raises(Cancelled):
        match(small[0], small[1], config if stage == "decimation" else SMALL, progress=stop)
    assert seen.count(stage) == 1


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"landmarks": np.array([[0, 0], [1, 1]])}, "landmarks.bad"),
        ({"landmarks": np.array([[0, 0], [1, 1], [2, 162]])}, "landmarks.bad"),
        ({"landmarks": np.array([[0, 0, 1], [1, 1, 2], [2, 2, 3]])}, "landmarks.bad"),
        ({"landmarks": np.array([[0.5, 0], [1, 1], [2, 2]])}, "landmarks.bad"),
        ({"initial_map": np.zeros(161, np.int64)}, "fmap.bad_p2p"),
        ({"initial_map": np.full(162, 162)}, "fmap.bad_p2p"),
        ({"initial_map": np.zeros(162)}, "fmap.bad_p2p"),
    ],
)
@pytest.mark.parametrize("limit", [100, 20_000])
def test_bad_starts_are_refused_before_any_work(
    small: tuple[Mesh, Mesh, np.ndarray], given: dict[str, Any], code: str, limit: int
) -> None:
    events: list[Mapping[str, Any]] = []
    config = replace(SMALL, coarse_vertices=100, max_vertices=limit)
    with pytest.raises(Geo3dError) as caught:
        match(small[0], small[1], config, progress=events.append, **given)
    assert caught.value.code == code and caught.value.exit_code == 3
    assert not events


def test_unusable_shapes_are_refused(small: tuple[Mesh, Mesh, np.ndarray]) -> None:
    line = Mesh(np.linspace([0.0, 0, 0], [1, 0, 0], 60), np.array([[0, 1, 2]]))
    for mesh, code in (
        (bumpy_sphere(1), "match.too_small"),
        (line, "mesh.zero_area"),
    ):
        for shapes in ((mesh, small[1]), (small[0], mesh)):
            with pytest.raises(Geo3dError) as caught:
                match(*shapes, SMALL)
            assert caught.value.code == code
