"""Judging maps without ground truth, and telling them apart.

Notation: s hypotheses C (k, k) from shape 1 to shape 2, p samples.  A map pulls the positions of 1
back to 2 as y = Phi_2 C Phi_1^T M_1 X_1; its derivative at a sample of 2 spans a mapped tangent
plane.  ``orientation`` is the mean cosine between the normal of that plane and the normal of 1 at
the image: near 1 for the right map, near -1 for its mirror twin.  ``residual`` is the mean squared
distance of the two embeddings after matching, ``coverage`` the share of samples of 1 that are hit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.spectral.nearest import nearest
from shape_matching.search.prepare import Prepared


@dataclass(frozen=True, eq=False)
class Appraisal:
    """Unsupervised quality of s hypotheses."""

    orientation: Float[Tensor, " s"]
    """-1 to 1; 0 for point clouds."""
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
    smooth and preserves orientation as well.  0 for point clouds.
    """
    if one.curvature is None or two.curvature is None:
        return torch.zeros(len(p2p_21)).to(one.rows)
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
    if one.normals is None or two.gradients is None:
        return torch.zeros(len(fmaps_12), device=fmaps_12.device)
    k = fmaps_12.shape[-1]
    pulled = fmaps_12 @ one.positions[:k]
    along_x, along_y = (grad[:n_samples, :k] @ pulled for grad in two.gradients)
    plane_normal = torch.linalg.cross(along_x, along_y)
    cosine = torch.nn.functional.cosine_similarity(plane_normal, one.normals[p2p_21], dim=-1)
    return cosine.mean(1)
