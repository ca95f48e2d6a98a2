"""The search for a map: many starts refined side by side, the best and most different ones kept.

Notation as in `shape_matching.search.hypotheses`: s hypotheses (k, k) from shape 1 to shape 2.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.spectral.zoomout import sizes, zoomout_hypotheses
from shape_matching.config import MatchConfig
from shape_matching.search.hypotheses import appraise, distinct
from shape_matching.search.prepare import Prepared

K_MIDDLE = 56
N_MIDDLE = 600
K_FINALISTS = 144


def finalists(
    fmaps: Float[Tensor, "s k k"],
    one: Prepared,
    two: Prepared,
    config: MatchConfig,
    progress: ProgressCallback = ignore_progress,
    k_last: int = K_FINALISTS,
) -> Float[Tensor, "n m m"]:
    """Return up to ``config.n_finalists`` distinct maps of size ``k_last``, best first.

    The maps are smaller where the bases or the samples carry less.
    """
    k = fmaps.shape[-1]
    ranked = appraise(fmaps, one, two, N_MIDDLE // 2).score()
    fmaps = fmaps[distinct(fmaps, ranked, config.n_hypotheses, 12, 0.7)]
    report(progress, "hypotheses", 1, 3, kept=len(fmaps))
    fmaps = _grown(fmaps, one, two, N_MIDDLE, _sampled_sizes(k + 2, K_MIDDLE, 6, one, two))
    ranked = appraise(fmaps, one, two, N_MIDDLE).score()
    fmaps = fmaps[distinct(fmaps, ranked, config.n_finalists, k, 1.0)]
    report(progress, "hypotheses", 2, 3, kept=len(fmaps))
    k = fmaps.shape[-1]
    return _grown(fmaps, one, two, config.n_samples, _sampled_sizes(k, k_last, 8, one, two))


def _grown(
    fmaps: Tensor, one: Prepared, two: Prepared, n_samples: int, schedule: list[int]
) -> Tensor:
    return zoomout_hypotheses(fmaps, one.rows[:n_samples], two.rows[:n_samples], schedule)


def _sampled_sizes(first: int, last: int, step: int, one: Prepared, two: Prepared) -> list[int]:
    """Return map sizes that both the bases and the number of samples can carry."""
    most = min(one.basis.k, two.basis.k, len(one.rows) // 2, len(two.rows) // 2)
    last = min(last, most)
    return sizes(min(first, last), last, step)
