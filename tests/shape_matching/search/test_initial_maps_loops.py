"""Initial maps and their appraisal against plain loops over random shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prepared_helpers import nearest_rows, random_prepared

from geo3d.spectral.descriptors import unit_norm, wks
from geo3d.spectral.fmap import laplacian_mask, solve_fmap
from geo3d.spectral.zoomout import zoomout_hypotheses
from shape_matching.search import initial_maps as initial
from shape_matching.search.initial_maps import (
    Appraisal,
    appraise,
    curvature_agreement,
    distinct,
    frame_maps,
    from_landmarks,
    from_p2p,
    initial_maps,
    sign_maps,
    wks_map,
)
from shape_matching.search.prepare import Prepared


def masked(spectra: list[np.ndarray], shapes: tuple[Prepared, Prepared]) -> torch.Tensor:
    """Solve with the Laplacian mask of the first twenty eigenvalues, weight 1e-3."""
    evals = [s.basis.evals[:20].double() for s in shapes]
    one, two = (torch.from_numpy(s) for s in spectra)
    return solve_fmap(one, two, laplacian_mask(*evals), 1e-3)[None].float()


def test_the_map_of_signatures_is_written_out() -> None:
    shapes = random_prepared(1, 110, 2, 100), random_prepared(2, 120, 2, 100)
    spectra = []
    for shape in shapes:
        basis = shape.basis.to(dtype=torch.float64)
        signatures = unit_norm(wks(basis.truncate(100), 100), basis.mass)
        spectra.append((basis.evecs[:, :20].T @ (basis.mass[:, None] * signatures)).numpy())
    torch.testing.assert_close(wks_map(*shapes), masked(spectra, shapes))


def test_the_map_of_landmarks_is_written_out() -> None:
    shapes = random_prepared(1, 110, 2, 100), random_prepared(2, 120, 2, 100)
    landmarks = torch.tensor([[3, 5], [40, 41], [77, 12], [110, 90]])
    spectra = []
    for shape, ids in zip(shapes, landmarks.T.tolist(), strict=True):
        basis = shape.basis.to(dtype=torch.float64).truncate(100)
        evals, evecs = basis.evals.numpy(), basis.evecs.numpy()
        kernels = []
        for exponent in np.linspace(-3, -0.5, 16):
            for vertex in ids:
                kernel = np.exp(-(10**exponent) * evals) * evecs[vertex]
                kernels.append(kernel[:20] / np.linalg.norm(kernel))
        spectra.append(np.stack(kernels, axis=1))
    expected = masked(spectra, shapes)
    torch.testing.assert_close(from_landmarks(*shapes, landmarks), expected, rtol=1e-3, atol=1e-4)


def test_frames_are_all_axis_rotations_of_both_alignments() -> None:
    rotations = initial._axis_rotations().numpy()
    assert len({tuple(r.ravel()) for r in rotations}) == 24
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)
    assert set(np.unique(np.abs(rotations))) == {0.0, 1.0}
    products = rotations @ rotations.transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), (24, 3, 3)))
    one, two = random_prepared(1, 15, 2, 100), random_prepared(2, 15, 2, 100)
    points, axes = [], []
    for shape in (one, two):
        mass = shape.basis.mass.double().numpy()
        centred = shape.mesh.vertices - mass @ shape.mesh.vertices / mass.sum()
        _, principal = np.linalg.eigh(centred.T @ (mass[:, None] * centred))
        points.append(centred[shape.samples.numpy()])
        axes.append(principal * np.sign(np.linalg.det(principal)))
    sizes = []
    for turn_1, turn_2 in ((np.eye(3), np.eye(3)), (axes[0], axes[1])):
        for rotation_ in rotations:
            p2p_21 = nearest_rows(points[1] @ turn_2 @ rotation_, points[0] @ turn_1)
            images = one.rows[p2p_21, :12].numpy()
            sizes.append(np.linalg.lstsq(two.rows[:, :12].numpy(), images, rcond=None)[0])
    found = frame_maps(one, two).numpy()
    assert found.shape == (48, 12, 12)
    # an eigenvector's sign is free, which permutes the second half
    np.testing.assert_allclose(found[:24], sizes[:24], atol=1e-3)
    for wanted in sizes[24:]:
        assert np.abs(found[24:] - wanted).max(axis=(1, 2)).min() < 1e-3


def test_branches_are_sign_patterns_on_the_best_trunks() -> None:
    one, two = random_prepared(1, 40, 3, 400), random_prepared(2, 40, 3, 400)
    found = initial._branches(one, two, 8)
    rows = one.rows[:300], two.rows[:300]
    trunks = zoomout_hypotheses(sign_maps(one, two, 8), *rows, [8, 8, 8])
    residual = appraise(trunks, one, two, 300).residual
    kept = trunks[distinct(trunks, -residual, 8, 8, 0.5)]
    assert found.shape == (len(kept) * 64, 14, 14) and len(kept) == 8
    for i, block in enumerate(found.split(64)):
        torch.testing.assert_close(block[:, :8, :8], kept[i].expand(64, -1, -1))
        assert not block[:, 8:, :8].any() and not block[:, :8, 8:].any()
        tails = block[:, 8:, 8:]
        assert torch.equal(tails, torch.diag_embed(tails.diagonal(dim1=1, dim2=2)))
        patterns = {tuple(tail.diagonal().tolist()) for tail in tails}
        assert len(patterns) == 64 and all(abs(x) == 1 for p in patterns for x in p)


def test_branches_of_small_bases_leave_room_for_six_functions() -> None:
    one, two = random_prepared(1, 12, 2, 100), random_prepared(2, 30, 2, 100)
    assert initial._branches(one, two, 8).shape[1:] == (12, 12)
    assert initial._branches(two, one, 8).shape[1:] == (12, 12)


def test_signs_of_eight_functions_by_default() -> None:
    one, two = random_prepared(1, 12, 2, 100), random_prepared(2, 5, 2, 100)
    assert sign_maps(one, one).shape == (128, 8, 8)
    assert sign_maps(one, two).shape == sign_maps(two, one).shape == (16, 5, 5)


def test_families_meet_at_twenty_functions_or_what_the_bases_have() -> None:
    one, two = random_prepared(1, 30, 3, 400), random_prepared(2, 16, 3, 400)
    assert initial_maps(one, one, ("frames",)).shape == (48, 20, 20)
    assert initial_maps(one, two, ("frames",)).shape == (48, 16, 16)
    assert initial_maps(two, one, ("frames",)).shape == (48, 16, 16)
    (found,) = from_p2p(one, one, torch.arange(642))
    assert found.shape == (20, 20)
    # grown one function at a time on the first 300 samples
    rows = one.rows[:300], one.rows[:300]
    expected = zoomout_hypotheses(frame_maps(one, one), *rows, range(12, 21))
    torch.testing.assert_close(initial_maps(one, one, ("frames",)), expected)


def test_orientation_is_the_mean_cosine_of_mapped_planes_and_normals() -> None:
    one, two = random_prepared(1), random_prepared(2)
    fmap = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    found = appraise(fmap[None], one, two, 20).orientation
    rows_1, rows_2 = (s.rows[:20, :6].double().numpy() for s in (one, two))
    images = nearest_rows(rows_2, rows_1 @ fmap.T.double().numpy())
    assert two.gradients is not None and one.normals is not None
    pulled = (fmap @ one.positions[:6]).numpy()
    planes = np.cross(*(axis[:20, :6].numpy() @ pulled for axis in two.gradients))
    planes /= np.linalg.norm(planes, axis=1, keepdims=True)
    expected = (planes * one.normals.numpy()[images]).sum(axis=1).mean()
    assert float(found[0]) == pytest.approx(expected, rel=1e-4)


def test_curvature_agreement_weighs_by_mass() -> None:
    one, two = random_prepared(1), random_prepared(2)
    maps = torch.randint(42, (3, 42), generator=torch.Generator().manual_seed(0))
    found = curvature_agreement(maps, one, two)
    assert one.curvature is not None and two.curvature is not None
    first, second = one.curvature[:, 0].numpy(), two.curvature[:, 0].numpy()
    expected = [(first[m] * second * two.basis.mass.numpy()).sum() for m in maps.numpy()]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_score_is_written_out() -> None:
    judged = Appraisal(
        torch.tensor([0.5, -0.25, 0.75]), torch.tensor([2.0, 4.0, 3.0]), torch.ones(3)
    )
    torch.testing.assert_close(judged.score(), torch.tensor([0.0, -2.5, 0.0]))
    torch.testing.assert_close(judged.score(2.0, 0.25), torch.tensor([-1.5, -4.5, -2.5]))
    perfect = Appraisal(torch.zeros(2), torch.tensor([0.0, 1e-12]), torch.ones(2))
    torch.testing.assert_close(perfect.score(), torch.tensor([0.0, -1.0]))
