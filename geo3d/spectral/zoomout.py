"""ZoomOut: spectral upsampling of a functional map.

Notation as in `geo3d.spectral.fmap`; s hypotheses refined side by side, p samples per shape.
Each pass turns the map into a vertex map by exact nearest neighbours and reads off a functional map
of the next size; the first pass keeps the size (see `sizes`).  One last conversion gives the vertex
map.

Source: Melzi et al. 2019; sub-sampled acceleration, section 4.4 there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.errors import InputError
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.spectral.basis import Basis
from geo3d.spectral.fmap import fmap_to_p2p, nearest

RIDGE = 100.0
"""Roundings of the mean diagonal added to normal equations, so that they can always be solved.

One rounding would do for exact sums; a hundred cover those of a few hundred products.  In float32
that is 1e-5 of the diagonal."""


def sizes(k_start: int, k_final: int, step: int) -> list[int]:
    """Return k_start, k_start + step, ... and k_final, which ends a step of up to 2 step - 1.

    The published schedule: 12 to 40 by 10 visits 12, 22, 40.

    Raises:
        InputError: ``zoomout.bad_sizes`` unless 1 <= k_start <= k_final and step >= 1.
    """
    if not 1 <= k_start <= k_final or step < 1:
        raise InputError(
            "zoomout.bad_sizes",
            f"ZoomOut cannot go from {k_start} to {k_final} in steps of {step}.",
            "The final size must be at least the size of the initial map, the step at least 1.",
        )
    if k_start == k_final:
        return [k_final]
    return [*(range(k_start, k_final - step + 1, step) or [k_start]), k_final]


def zoomout(
    fmap_12: Float[Tensor, "k2 k1"],
    basis_1: Basis,
    basis_2: Basis,
    k_final: int,
    step: int = 1,
    *,
    samples: tuple[Int64[Tensor, " p1"], Int64[Tensor, " p2"]] | None = None,
    finish: int = 0,
    progress: ProgressCallback = ignore_progress,
) -> tuple[Float[Tensor, "k k"], Int64[Tensor, " v2"]]:
    """Refine ``fmap_12``; return the final map (k_final, k_final) and p2p_21 on all vertices.

    Args:
        samples: vertices of 1 and of 2 that the passes before the last look at (the acceleration
            of the paper); by default all.
        finish: with samples, how many of the last sizes are passed on all vertices, by steps of at
            least 4; 32 brings the accuracy of all passes on all vertices.

    Raises:
        InputError: ``zoomout.bad_sizes``, also when a basis has fewer than k_final functions or
            there are fewer than k_final samples.
    """
    _require_rows(k_final, [basis_1.k, basis_2.k, *map(len, samples or ())])
    schedule = sizes(min(fmap_12.shape), k_final, step)
    pulled = basis_2.mass[:, None] * basis_2.evecs
    if samples is not None:
        rows = basis_1.evecs[samples[0]], basis_2.evecs[samples[1]]
        k_sampled = max(min(fmap_12.shape), k_final - finish)
        schedule = sizes(min(fmap_12.shape), k_sampled, step)
        fmap_12 = zoomout_hypotheses(fmap_12[None], *rows, schedule, progress)[0]
        # Passes over all vertices cost many times those over samples, so there are few of them.
        schedule = sizes(k_sampled, k_final, max(step, 4))
    for i, k in enumerate(schedule):
        p2p_21 = fmap_to_p2p(fmap_12, basis_1.evecs, basis_2.evecs)
        fmap_12 = pulled[:, :k].T @ basis_1.evecs[p2p_21, :k]
        report(progress, "ZoomOut", i + 1, len(schedule), k=k)
    return fmap_12, fmap_to_p2p(fmap_12, basis_1.evecs, basis_2.evecs)


def zoomout_hypotheses(
    fmaps_12: Float[Tensor, "s k2 k1"],
    rows_1: Float[Tensor, "p1 _"],
    rows_2: Float[Tensor, "p2 _"],
    schedule: Sequence[int],
    progress: ProgressCallback = ignore_progress,
) -> Float[Tensor, "s kf kf"]:
    """Refine many maps at once on eigenvector rows sampled from the two shapes.

    Maps are read off by least squares on the samples, so these need no mass; give at least twice
    as many samples as eigenfunctions.
    """
    largest = max(schedule)
    gram = rows_2[:, :largest].T @ rows_2[:, :largest]
    # a function may vanish on all samples: the constant of a small part without one
    gram.diagonal().add_(RIDGE * torch.finfo(gram.dtype).eps * gram.diagonal().mean())
    for i, k in enumerate(schedule):
        k2, k1 = fmaps_12.shape[-2:]
        embedded = rows_1[:, :k1] @ fmaps_12.transpose(1, 2)
        p2p_21 = nearest(rows_2[:, :k2].expand(len(fmaps_12), -1, -1), embedded)
        moments = rows_2[:, :k].T @ rows_1[:, :k][p2p_21]
        # all maps side by side in one system: solving them as a batch is many times slower
        columns = moments.transpose(0, 1).reshape(k, -1)
        solved = torch.cholesky_solve(columns, torch.linalg.cholesky(gram[:k, :k]))
        fmaps_12 = solved.reshape(k, -1, k).transpose(0, 1)
        report(progress, "ZoomOut on samples", i + 1, len(schedule), k=k)
    return fmaps_12


def _require_rows(k_final: int, counts: Sequence[int]) -> None:
    if min(counts) < k_final:
        raise InputError(
            "zoomout.bad_sizes",
            f"ZoomOut to {k_final} needs as many eigenfunctions and samples; there are {counts}.",
            "Compute larger bases, take more samples or lower the final size.",
        )
