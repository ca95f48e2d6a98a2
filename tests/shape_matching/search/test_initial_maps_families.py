"""Initial maps: the families, one by one, contain a good hypothesis; what users give is checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, moved, permuted, rotation

from geo3d.errors import InputError, MeshError, ShapeError
from geo3d.mesh.mesh import Mesh
from geo3d.spectral.fmap import fmap_to_p2p, p2p_to_fmap
from shape_matching.search.initial_maps import (
    FAMILIES,
    check_initial_map,
    check_landmarks,
    frame_maps,
    from_landmarks,
    from_p2p,
    initial_maps,
    sign_maps,
)
from shape_matching.search.prepare import Prepared, prepare

CPU = torch.device("cpu")
Pair = tuple[Prepared, Prepared, np.ndarray]


def ready(mesh: Mesh, k: int = 40) -> Prepared:
    return prepare(mesh, k, 300, "auto", CPU)


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Return a shape, a moved and shuffled copy, and the true map."""
    mesh = bumpy_sphere(2)
    copy, order = permuted(moved(mesh, rotation(1), 3.0))
    return ready(mesh), ready(copy), order


def errors(fmaps: torch.Tensor, pair: Pair) -> np.ndarray:
    """Return the mean distance from the truth of each hypothesis, unit area."""
    one, two, truth = pair
    vertices = one.mesh.vertices
    images = [fmap_to_p2p(f, one.basis.evecs, two.basis.evecs).numpy() for f in fmaps]
    return np.array([np.linalg.norm(vertices[i] - vertices[truth], axis=1).mean() for i in images])


def test_prepared_shapes(pair: Pair) -> None:
    one, _, _ = pair
    assert one.basis.evecs.dtype == torch.float32 and one.basis.k == 40
    assert float(one.basis.mass.sum()) == pytest.approx(1.0, rel=1e-5)
    assert torch.equal(one.rows, one.basis.evecs[one.samples])
    assert one.samples.unique().numel() == len(one.samples) == 162
    # positions are band-limited coordinates: a coarse likeness of the mesh
    smooth = one.basis.evecs @ one.positions
    gap = np.linalg.norm(smooth.numpy() - one.mesh.vertices, axis=1).mean()
    assert gap < 0.02
    assert one.normals is not None and one.gradients is not None
    assert one.gradients[0].shape == (162, 40)


def test_point_clouds_have_unit_area_and_outward_normals() -> None:
    mesh = bumpy_sphere(3)
    cloud = ready(Mesh(mesh.vertices * 9.0, np.zeros((0, 3), np.int64), name="dots"))
    solid = ready(mesh)
    facing = (cloud.normals.numpy() * mesh.vertices[cloud.samples]).sum(axis=1)
    assert (facing > 0).all()
    assert float(cloud.basis.mass.sum()) == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_allclose(cloud.basis.evals[1:10], solid.basis.evals[1:10], rtol=0.15)
    assert len(cloud.notes) == 1 and "dots" in cloud.notes[0]
    assert not solid.notes


def test_small_meshes_are_refused() -> None:
    with pytest.raises(MeshError) as caught:
        ready(bumpy_sphere(1))
    assert caught.value.code == "match.too_small" and "42" in caught.value.message


def test_sign_maps_are_all_patterns_with_the_constant_fixed(pair: Pair) -> None:
    found = sign_maps(pair[0], pair[1], k=4)
    assert found.shape == (8, 4, 4)
    diagonals = {tuple(f.diagonal().tolist()) for f in found}
    assert len(diagonals) == 8 and all(d[0] == 1.0 for d in diagonals)
    assert torch.equal(found, torch.diag_embed(found.diagonal(dim1=1, dim2=2)))


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[pytest.mark.slow] if f in ("signs", "tree") else []) for f in FAMILIES],
)
def test_every_family_finds_a_moved_copy(pair: Pair, family: str) -> None:
    found = initial_maps(pair[0], pair[1], (family,))  # type: ignore[arg-type]
    assert found.shape[1:] == (20, 20) and torch.isfinite(found).all()
    assert errors(found, pair).min() < 0.01


def test_families_are_joined_in_order(pair: Pair) -> None:
    one, two, _ = pair
    (single,) = initial_maps(one, two, ("wks",))
    found = initial_maps(one, two, ("frames", "wks"))
    assert len(found) == 49 and torch.equal(found[-1], single)


def test_frames_find_an_aligned_or_turned_copy_at_once(pair: Pair) -> None:
    found = frame_maps(pair[0], pair[1])
    assert len(found) == 48
    assert errors(found, pair).min() < 0.05
    aligned = ready(permuted(bumpy_sphere(2))[0])
    order = permuted(bumpy_sphere(2))[1]
    assert errors(frame_maps(pair[0], aligned)[:24], (pair[0], aligned, order)).min() < 0.05


def test_landmarks_give_a_map(pair: Pair) -> None:
    one, two, truth = pair
    targets = np.array([3, 40, 77, 110, 150])
    landmarks = torch.from_numpy(np.stack([truth[targets], targets], axis=1))
    found = from_landmarks(one, two, landmarks)
    assert found.shape == (1, 20, 20)
    right = errors(found, pair)[0]
    shifted = torch.stack([landmarks[:, 0].roll(1), landmarks[:, 1]], dim=1)
    wrong = errors(from_landmarks(one, two, shifted), pair)[0]
    assert right < 0.1 and wrong > 2 * right


def test_a_given_map_becomes_its_functional_map(pair: Pair) -> None:
    one, two, truth = pair
    p2p_21 = torch.from_numpy(truth)
    (found,) = from_p2p(one, two, p2p_21)
    expected = p2p_to_fmap(p2p_21, one.basis.truncate(20), two.basis.truncate(20))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "landmarks",
    [
        np.array([[0, 0], [1, 1]]),
        np.array([[0, 0], [1, 1], [2, -1]]),
        np.array([[0, 0], [1, 1], [10, 2]]),
        np.array([[0, 0], [1, 1], [2, 20]]),
        np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2]]),
        np.array([0, 1, 2]),
        np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]),
        np.zeros((0, 2), np.int64),
    ],
)
def test_bad_landmarks_are_refused(landmarks: np.ndarray) -> None:
    with pytest.raises(InputError) as caught:
        check_landmarks(landmarks, 10, 20)
    assert caught.value.code == "landmarks.bad"


def test_landmarks_of_any_integer_type_are_taken() -> None:
    found = check_landmarks(np.array([[0, 19], [9, 0], [5, 5]], np.uint16), 10, 20)
    assert found.dtype == np.int64 and found.tolist() == [[0, 19], [9, 0], [5, 5]]


@pytest.mark.parametrize(
    "p2p_21",
    [
        np.zeros(4, np.int64),
        np.array([0, 1, 5]),
        np.array([0, -2, 2]),
        np.array([-1, -1, -1]),
        np.zeros(3),
        np.zeros((3, 1), int),
    ],
)
def test_bad_initial_maps_are_refused(p2p_21: np.ndarray) -> None:
    with pytest.raises(ShapeError) as caught:
        check_initial_map(p2p_21, 5, 3)
    assert caught.value.code == "fmap.bad_p2p"
    assert check_initial_map(np.array([4, 0, 1], np.int32), 5, 3).dtype == np.int64
    assert check_initial_map(np.array([4, -1, 1]), 5, 3).tolist() == [4, -1, 1]
