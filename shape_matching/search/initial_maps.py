"""Initial functional maps: many cheap hypotheses, so that one of them is right.

Notation as in `geo3d.spectral.fmap`; s hypotheses, k eigenfunctions.  None of the families looks at
the ground truth or assumes that the shapes are aligned:

* ``signs``: eigenfunctions of near-isometric shapes agree up to sign, so all sign patterns of the
  first eight are tried;
* ``tree``: the best of those are extended by all sign patterns of the next six, which decide front
  against back where limbs are thin (in the spirit of MapTree, Ren et al. 2020);
* ``frames``: nearest neighbours of the positions after aligning principal axes or the given axes,
  under the 24 rotations that permute them;
* ``wks``: least squares on wave kernel signatures with the Laplacian mask.

The candidates are refined side by side, and the best and most different ones are kept
(`finalists`).  `from_landmarks` and `from_p2p` start from what the user knows.

They are judged without ground truth (`appraise`).  C (k, k) carries functions of shape 1 to shape
2; p samples.  It pulls the positions of 1 back to 2 as y = Phi_2 C Phi_1^T M_1 X_1; the derivative
of y at a sample of 2 spans a mapped tangent plane.
``orientation`` is the mean cosine between the normal of that plane and the normal of 1 at
the image: near 1 for the right map, near -1 for its mirror twin.  ``residual`` is the mean squared
distance of the two embeddings after matching, ``coverage`` the share of samples of 1 that are hit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.errors import InputError, ShapeError
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.spectral.basis import Basis
from geo3d.spectral.descriptors import unit_norm, wks
from geo3d.spectral.fmap import check_p2p, laplacian_mask, nearest, p2p_to_fmap, solve_fmap
from geo3d.spectral.zoomout import sizes, zoomout_hypotheses
from shape_matching.config import MatchConfig, Start
from shape_matching.search.outwards import outwards
from shape_matching.search.prepare import Prepared


@dataclass(frozen=True, eq=False)
class Appraisal:
    """Unsupervised quality of s hypotheses."""

    orientation: Float[Tensor, " s"]
    """-1 to 1."""
    residual: Float[Tensor, " s"]
    """At least 0, lower is better."""
    coverage: Float[Tensor, " s"]
    """0 to 1."""

    def score(
        self, residual_weight: float = 1.0, orientation_cap: float = 1.0
    ) -> Float[Tensor, " s"]:
        """Return the ranking score, higher is better.

        2 min(orientation, cap) - weight residual / least residual.  Orientation tells mirror twins
        apart; beyond the cap more of it says nothing about accuracy.
        """
        relative = self.residual / self.residual.min().clamp(min=1e-12)
        turned = self.orientation.clamp(max=orientation_cap)
        return 2.0 * turned - residual_weight * relative


def appraise(
    fmaps_12: Float[Tensor, "s k k"], one: Prepared, two: Prepared, n_samples: int
) -> Appraisal:
    """Judge all hypotheses on the leading ``n_samples`` samples of both shapes."""
    k = fmaps_12.shape[-1]
    rows_1, rows_2 = one.rows[:n_samples, :k], two.rows[:n_samples, :k]
    embedded = rows_1 @ fmaps_12.transpose(1, 2)
    p2p_21 = nearest(rows_2.expand(len(fmaps_12), -1, -1), embedded)
    images = embedded.gather(1, p2p_21[..., None].expand(-1, -1, k))
    residual = (images - rows_2).square().sum(-1).mean(-1)
    hit = torch.zeros(len(fmaps_12), len(rows_1), device=rows_1.device)
    coverage = hit.scatter_(1, p2p_21, 1.0).mean(1)
    orientation = _orientation(fmaps_12, p2p_21, one, two, len(rows_2))
    return Appraisal(orientation, residual, coverage)


def roughness(p2p_21: Int64[Tensor, "s v2"], one: Prepared, two: Prepared) -> Float[Tensor, " s"]:
    """Return the Dirichlet energy on 2 of the positions of 1 pulled back by each vertex map.

    A map that tears the surface or twists a limb is rough where it does so; mirror twins are not.
    """
    images = one.mesh.vertices[p2p_21.cpu().numpy()]
    energies = [float((image * (two.stiffness @ image)).sum()) for image in images]
    return torch.tensor(energies).to(one.rows).clamp(min=1e-12)


def curvature_agreement(
    p2p_21: Int64[Tensor, "s v2"], one: Prepared, two: Prepared
) -> Float[Tensor, " s"]:
    """Return the correlation of mean curvature on 2 with that of 1 pulled back, -1 to 1.

    Chests bulge where backs do not: this tells a map from its front-to-back twin, which is as
    smooth and preserves orientation as well.
    """
    return one.curvature[:, 0][p2p_21] @ (two.basis.mass * two.curvature[:, 0])


def distinct(
    fmaps_12: Float[Tensor, "s k k"],
    scores: Float[Tensor, " s"],
    count: int,
    k: int,
    apart: float,
) -> Int64[Tensor, " n"]:
    """Return up to ``count`` indices, best score first, whose leading k x k blocks lie at least
    ``apart`` (Frobenius norm) from each other."""
    blocks = fmaps_12[:, :k, :k].flatten(1).cpu()
    far = (torch.cdist(blocks, blocks) > apart).numpy()
    open_ones = np.ones(len(blocks), bool)
    kept: list[int] = []
    for i in torch.argsort(scores, descending=True, stable=True).tolist():
        if open_ones[i]:
            kept.append(i)
            open_ones &= far[i]
            if len(kept) == count:
                break
    return torch.tensor(kept, device=fmaps_12.device)


def _orientation(
    fmaps_12: Tensor, p2p_21: Tensor, one: Prepared, two: Prepared, n_samples: int
) -> Tensor:
    k = fmaps_12.shape[-1]
    pulled = fmaps_12 @ one.positions[:k]
    along_x, along_y = (grad[:n_samples, :k] @ pulled for grad in two.gradients)
    plane_normal = torch.linalg.cross(along_x, along_y)
    cosine = torch.nn.functional.cosine_similarity(plane_normal, one.normals[p2p_21], dim=-1)
    return cosine.mean(1)


K_START = 20
"""Size at which the families meet."""
N_EARLY = 300
"""Samples used up to that size."""
K_FRAMES = 12
N_FRAMES = 1000
LANDMARK_TIMES = 16
MASK_WEIGHT = 1e-3


def initial_maps(one: Prepared, two: Prepared, families: Sequence[Start]) -> Float[Tensor, "s k k"]:
    """Return the hypotheses of all chosen families, refined to a common size."""
    k = min(K_START, one.basis.k, two.basis.k)
    grown = [_grow(FAMILIES[name](one, two), one, two, k) for name in families]
    return torch.cat(grown)


def sign_maps(one: Prepared, two: Prepared, k: int = 8) -> Float[Tensor, "s k k"]:
    """Return diagonal maps with every sign pattern; the constant function keeps its sign."""
    k = min(k, one.basis.k, two.basis.k)
    signs = torch.tensor(list(itertools.product([1.0, -1.0], repeat=k - 1)))
    return torch.diag_embed(torch.nn.functional.pad(signs, (1, 0), value=1.0)).to(one.rows)


def tree_maps(one: Prepared, two: Prepared) -> Float[Tensor, "s k k"]:
    """Return sign patterns of later eigenfunctions on top of the best low-frequency maps."""
    return torch.cat([_grow(_branches(one, two, trunk), one, two, K_START) for trunk in (8, 6)])


def frame_maps(one: Prepared, two: Prepared) -> Float[Tensor, "s k k"]:
    """Return maps by nearest positions under the rotations of two pairs of frames."""
    few_1, few_2 = one.samples[:N_FRAMES], two.samples[:N_FRAMES]
    points_1, points_2 = (_centred(shape)[few] for shape, few in ((one, few_1), (two, few_2)))
    principal_1, principal_2 = points_1 @ _principal_axes(one), points_2 @ _principal_axes(two)
    rotations = _axis_rotations().to(points_1)
    p2p_21 = torch.cat(
        [
            nearest(queries @ rotations, points.expand(len(rotations), -1, -1))
            for points, queries in ((points_1, points_2), (principal_1, principal_2))
        ]
    )
    k = min(K_FRAMES, one.basis.k, two.basis.k)
    return torch.linalg.pinv(two.rows[:N_FRAMES, :k]) @ one.rows[:N_FRAMES, :k][p2p_21]


def wks_map(one: Prepared, two: Prepared, k: int = K_START) -> Float[Tensor, "1 k k"]:
    """Return the least-squares map of 100 wave kernel signatures."""
    bases = [shape.basis.to(dtype=torch.float64) for shape in (one, two)]
    spectra = [
        basis.truncate(k).project(unit_norm(wks(basis.truncate(100), 100), basis.mass))
        for basis in bases
    ]
    return _masked_solve(spectra[0], spectra[1], *(b.truncate(k) for b in bases))[None].to(one.rows)


def from_landmarks(
    one: Prepared, two: Prepared, landmarks: Int64[Tensor, "p 2"]
) -> Float[Tensor, "1 k k"]:
    """Return the least-squares map of heat kernels around corresponding vertices.

    See `check_landmarks`.
    """
    kernels = []
    for shape, ids in ((one, landmarks[:, 0]), (two, landmarks[:, 1])):
        basis = shape.basis.to(dtype=torch.float64).truncate(100)
        times = torch.logspace(-3, -0.5, LANDMARK_TIMES).to(basis.evals)
        decay = torch.exp(-times[:, None] * basis.evals[None])
        at_landmark = (decay[:, None] * basis.evecs[ids][None]).reshape(-1, basis.k)
        scale = at_landmark.norm(dim=1, keepdim=True)
        kernels.append((at_landmark / scale)[:, :K_START].T)
    bases = (shape.basis.to(dtype=torch.float64).truncate(K_START) for shape in (one, two))
    return _masked_solve(kernels[0], kernels[1], *bases)[None].to(one.rows)


def check_landmarks(
    landmarks: np.ndarray, n_source: int, n_target: int
) -> Int64[np.ndarray, "p 2"]:
    """Return the rows (source vertex, target vertex) as int64.

    Raises:
        InputError: ``landmarks.bad`` for another shape or type, indices out of range or fewer than
            3 pairs.
    """
    pairs = np.asarray(landmarks)
    good = pairs.ndim == 2 and pairs.shape[1] == 2 and len(pairs) >= 3 and pairs.dtype.kind in "iu"
    if not good or (pairs < 0).any() or (pairs >= [n_source, n_target]).any():
        raise InputError(
            "landmarks.bad",
            f"Landmarks of type {pairs.dtype} and shape {pairs.shape} do not fit shapes of "
            f"{n_source} and {n_target} vertices.",
            "Give at least 3 rows (source vertex, target vertex), counted from 0.",
        )
    return pairs.astype(np.int64)


def check_initial_map(p2p_21: np.ndarray, n_source: int, n_target: int) -> Int64[np.ndarray, " v2"]:
    """Return the vertex map as int64; -1 stands for no counterpart, as long as not all are.

    Raises:
        ShapeError: ``fmap.bad_p2p`` for another type or length, or an index out of range.
    """
    images = np.asarray(p2p_21)
    if images.dtype.kind not in "iu":
        raise ShapeError(
            "fmap.bad_p2p", f"The map is of type {images.dtype}.", "Give source vertices, from 0."
        )
    images = images.astype(np.int64)
    known = np.where((images == -1) & (images.max(initial=-1) >= 0), 0, images)
    check_p2p(torch.from_numpy(known), n_source=n_source, n_target=n_target)
    return images


def from_p2p(one: Prepared, two: Prepared, p2p_21: Int64[Tensor, " v2"]) -> Float[Tensor, "1 k k"]:
    """Return the functional map of a given vertex map (v2,); see `check_initial_map`."""
    return p2p_to_fmap(p2p_21, one.basis.truncate(K_START), two.basis.truncate(K_START))[None]


FAMILIES = {"signs": sign_maps, "tree": tree_maps, "frames": frame_maps, "wks": wks_map}


def _grow(fmaps: Tensor, one: Prepared, two: Prepared, k: int) -> Tensor:
    first = min(fmaps.shape[-1], k)
    return zoomout_hypotheses(
        fmaps[:, :first, :first], one.rows[:N_EARLY], two.rows[:N_EARLY], range(first, k + 1)
    )


def _branches(one: Prepared, two: Prepared, trunk: int, n_trunks: int = 8) -> Tensor:
    """Extend the best maps of size ``trunk`` by all sign patterns of six more functions."""
    trunk = min(trunk, one.basis.k - 6, two.basis.k - 6)
    rows_1, rows_2 = one.rows[:N_EARLY], two.rows[:N_EARLY]
    trunks = zoomout_hypotheses(sign_maps(one, two, trunk), rows_1, rows_2, [trunk] * 3)
    residual = appraise(trunks, one, two, N_EARLY).residual
    kept = trunks[distinct(trunks, -residual, n_trunks, trunk, 0.5)]
    signs = torch.tensor(list(itertools.product([1.0, -1.0], repeat=6))).to(kept)
    grown = torch.nn.functional.pad(kept, (0, 6, 0, 6))[:, None].repeat(1, len(signs), 1, 1)
    grown[:, :, trunk:, trunk:] = torch.diag_embed(signs)
    return grown.flatten(0, 1)


def _masked_solve(first: Tensor, second: Tensor, basis_1: Basis, basis_2: Basis) -> Tensor:
    mask = laplacian_mask(basis_1.evals, basis_2.evals)
    return solve_fmap(first, second, mask, MASK_WEIGHT)


def _centred(shape: Prepared) -> Tensor:
    vertices = torch.from_numpy(shape.mesh.vertices.copy()).to(shape.basis.mass)
    centre = (shape.basis.mass[:, None] * vertices).sum(0) / shape.basis.mass.sum()
    return vertices - centre


def _principal_axes(shape: Prepared) -> Float[Tensor, "3 3"]:
    points = _centred(shape)
    _, axes = torch.linalg.eigh(points.T @ (shape.basis.mass[:, None] * points))
    return axes * torch.linalg.det(axes).sign()


def _axis_rotations() -> Float[Tensor, "24 3 3"]:
    """Return the rotations that map coordinate axes to coordinate axes."""
    permutations = torch.eye(3)[torch.tensor(list(itertools.permutations(range(3))))]
    signs = torch.tensor(list(itertools.product([1.0, -1.0], repeat=3)))
    signed = (permutations[:, None] * signs[None, :, None, :]).flatten(0, 1)
    return signed[torch.linalg.det(signed) > 0]


K_MIDDLE = 56
N_MIDDLE = 600
N_OUTWARDS = 4
"""How many maps that turn the surface over are begun anew."""
K_FINALISTS = 144


def finalists(
    fmaps: Float[Tensor, "s k k"],
    one: Prepared,
    two: Prepared,
    config: MatchConfig,
    progress: ProgressCallback = ignore_progress,
    k_last: int = K_FINALISTS,
    *,
    anew: bool = True,
) -> Float[Tensor, "n m m"]:
    """Return up to ``config.n_finalists`` distinct maps of size ``k_last``, best first.

    The maps are smaller where the bases or the samples carry less.  With ``anew`` those that turn
    the surface over are also begun anew so that they do not; leave it where the side is given.
    """
    k = fmaps.shape[-1]
    ranked = appraise(fmaps, one, two, N_MIDDLE // 2).score()
    fmaps = fmaps[distinct(fmaps, ranked, config.n_hypotheses, 12, 0.7)]
    report(progress, "hypotheses", 1, 3, kept=len(fmaps))
    fmaps = _grown(fmaps, one, two, N_MIDDLE, _sampled_sizes(k + 2, K_MIDDLE, 6, one, two))
    if anew:
        fmaps = torch.cat([fmaps, _outwards(fmaps, one, two, k)])
    ranked = appraise(fmaps, one, two, N_MIDDLE).score()
    fmaps = fmaps[distinct(fmaps, ranked, config.n_finalists, k, 1.0)]
    report(progress, "hypotheses", 2, 3, kept=len(fmaps))
    k = fmaps.shape[-1]
    return _grown(fmaps, one, two, config.n_samples, _sampled_sizes(k, k_last, 8, one, two))


def _outwards(fmaps: Tensor, one: Prepared, two: Prepared, k: int) -> Tensor:
    """Return what becomes of the best maps that turn the surface over, begun anew with normals."""
    judged = appraise(fmaps, one, two, N_MIDDLE)
    over = torch.nonzero(judged.orientation < 0)[:, 0]
    if not len(over):
        return fmaps[:0]
    fits = Appraisal(-judged.orientation, judged.residual, judged.coverage).score()[over]
    chosen = over[distinct(fmaps[over], fits, N_OUTWARDS, k, 1.0)]
    again = outwards(fmaps[chosen], one, two, N_MIDDLE)
    return _grown(again, one, two, N_MIDDLE, [fmaps.shape[-1]] * 3)


def _grown(
    fmaps: Tensor, one: Prepared, two: Prepared, n_samples: int, schedule: list[int]
) -> Tensor:
    return zoomout_hypotheses(fmaps, one.rows[:n_samples], two.rows[:n_samples], schedule)


def _sampled_sizes(first: int, last: int, step: int, one: Prepared, two: Prepared) -> list[int]:
    """Return map sizes that both the bases and the number of samples can carry."""
    most = min(one.basis.k, two.basis.k, len(one.rows) // 2, len(two.rows) // 2)
    last = min(last, most)
    return sizes(min(first, last), last, step)
