"""Is a loss better than the baseline, or was it luck?  Paired sign-flip permutation tests.

For each image i: d_i = metric of the loss - metric of the baseline, each averaged over the seeds.
Were the two alike, every d_i would as likely have the other sign.  The p-value is the share of
random sign patterns e for which |sum_i w_i e_i d_i| is at least as large as it was observed
(two-sided; the observed pattern counts as one, so p is never 0).  w_i are the weights of the images
in the reported mean.  With few images all 2^n patterns are tried instead.

Several tests are corrected after Holm: the family is all losses, metrics and splits compared within
one (framework, labels, size).

`compat` is the published procedure: pairs are image x seed as though seeds were new images, the
share of patterns whose *signed* mean exceeds the observed absolute one (half the two-sided value),
without the observed pattern and without correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from geo3d.errors import ConfigError, InputError
from geo3d.segmentation.measures import HIGHER_IS_BETTER, Measures
from geo3d.segmentation.tables import (
    OVERALL,
    Runs,
    Setting,
    group_members,
    mean_of_known,
    metrics_of,
)

PERMUTATIONS = 10_000
BASELINES = ("CEDice", "ce_dice")
"""The published and our name of the loss that the others are compared with."""
_BLOCK = 1 << 20
"""Signs drawn at once."""


@dataclass(frozen=True)
class Comparison:
    """A loss against the baseline in one metric and split."""

    setting: Setting
    baseline: str
    split: str
    metric: str
    difference: float
    """Mean of the loss minus that of the baseline."""
    better: bool
    """Whether the difference has the good sign for this metric."""
    p: float
    p_corrected: float
    """After Holm; equal to ``p`` with ``compat``."""
    n_pairs: int


def sign_flip_p(
    differences: Float64[np.ndarray, " n"],
    generator: np.random.Generator,
    permutations: int = PERMUTATIONS,
    *,
    weights: Float64[np.ndarray, " n"] | None = None,
    compat: bool = False,
) -> float:
    """Return the p-value of a mean difference under random signs.

    Args:
        differences: one per pair; NaN pairs are left out.
        generator: draws the signs.
        permutations: how many sign patterns.
        weights: of the pairs in the mean; equal by default.
        compat: the published one-sided share, see the module.

    Raises:
        ConfigError: "significance.permutations" for less than one.
        InputError: "significance.no_pairs".
    """
    if permutations < 1:
        raise ConfigError("significance.permutations", f"{permutations} permutations.", "1 or more")
    known = ~np.isnan(differences)
    if not known.any():
        raise InputError("significance.no_pairs", "There is no pair to compare.", "")
    d = differences[known]
    if weights is not None:
        d = d * weights[known]
    if len(d) == 1:
        # scipy wants two observations; one that is zero changes no sum
        d = np.append(d, 0.0)
    observed = abs(d.sum())
    # The statistic of the original d is then the observed one in both procedures.
    d = np.copysign(1.0, d.sum()) * d
    # Loading scipy.stats takes a second, which only reports should wait for.
    from scipy.stats import permutation_test

    found = permutation_test(
        (d,),
        (lambda x, axis: x.sum(axis)) if compat else (lambda x, axis: np.abs(x.sum(axis))),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, _BLOCK // len(d)),
        # Called rng since scipy 1.15, which takes both names.
        random_state=generator,  # pyright: ignore[reportCallIssue]
    )
    if compat:
        return float(np.mean(found.null_distribution > observed * (1 + 1e-9)))
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected after Holm (1979), in the order given; scipy has no Holm."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0) if len(p) else scaled
    return corrected.tolist()


@dataclass(frozen=True)
class Procedure:
    """How to compare."""

    permutations: int = PERMUTATIONS
    """Random sign patterns per procedure."""
    seed: int = 0
    """Of the patterns; the same seed gives the same p-values."""
    compat: bool = False
    """The published procedure, see the module."""


def compare_with_baseline(
    runs: Runs,
    groups: Mapping[str, str],
    procedure: Procedure | None = None,
) -> list[Comparison]:
    """Compare every loss with the baseline loss of its framework, labels and size, ID and OOD.

    The baseline is the first of `BASELINES` that is there; settings for which it was not run are
    left out.

    Args:
        runs: see `geo3d.segmentation.tables.read_results`.
        groups: group of each image.
        procedure: how to compare (default: `Procedure`).

    Raises:
        InputError: "significance.unequal_images", "significance.unequal_seeds" (compat),
            "tables.unknown_image".
    """
    procedure = procedure or Procedure()
    losses = {setting.loss for setting in runs}
    baseline = next((name for name in BASELINES if name in losses), BASELINES[0])
    families: dict[tuple[str, str, str], list[Comparison]] = {}
    for setting, seeds in runs.items():
        reference = runs.get(replace(setting, loss=baseline))
        if reference is not None and setting.loss != baseline:
            _check_pair(setting, baseline, seeds, reference, procedure)
            family = families.setdefault((setting.framework, setting.labels, setting.size), [])
            family += _compare(setting, baseline, (seeds, reference), groups, procedure)
    for family in families.values():
        if not procedure.compat:
            corrected = holm([c.p for c in family])
            family[:] = [replace(c, p_corrected=p) for c, p in zip(family, corrected, strict=True)]
    return [comparison for family in families.values() for comparison in family]


def _check_pair(
    setting: Setting,
    baseline: str,
    seeds: Mapping[str, Measures],
    reference: Mapping[str, Measures],
    procedure: Procedure,
) -> None:
    if next(iter(seeds.values())).ids != next(iter(reference.values())).ids:
        raise InputError(
            "significance.unequal_images",
            f"{setting.loss} and {baseline} were measured on different images.",
            "Compare runs on the same test images.",
        )
    if procedure.compat and list(seeds) != list(reference):
        raise InputError(
            "significance.unequal_seeds",
            f"{setting.loss} and {baseline} were run with different seeds.",
            "The published test pairs the seeds; leave compat off.",
        )


def _compare(
    setting: Setting,
    baseline: str,
    pair: tuple[Mapping[str, Measures], Mapping[str, Measures]],
    groups: Mapping[str, str],
    procedure: Procedure,
) -> list[Comparison]:
    members = group_members(next(iter(pair[0].values())).ids, groups)
    found = []
    for metric in metrics_of([m for side in pair for m in side.values()]):
        for split in (s for s in OVERALL if s in members):
            mine, other = (np.stack([m.values[metric] for m in s.values()]) for s in pair)
            d, weights = _differences(mine, other, members[split], procedure.compat)
            if not len(d):
                continue
            # Every test has its own stream, so that its result does not depend on the others.
            stream = np.random.default_rng(
                [procedure.seed, *f"{setting}/{metric}/{split}".encode()]
            )
            p = sign_flip_p(
                d, stream, procedure.permutations, weights=weights, compat=procedure.compat
            )
            mean = float(np.average(d, weights=weights))
            better = mean > 0 if metric in HIGHER_IS_BETTER else mean < 0
            found.append(Comparison(setting, baseline, split, metric, mean, better, p, p, len(d)))
    return found


def _differences(
    mine: Float64[np.ndarray, "s n"],
    other: Float64[np.ndarray, "r n"],
    weights: Float64[np.ndarray, " n"],
    compat: bool,
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Return the defined differences of the pairs of a split and their weights."""
    if compat:
        d = mine - other
        weights = np.broadcast_to((weights > 0).astype(np.float64), d.shape)
    else:
        d = mean_of_known(mine, axis=0) - mean_of_known(other, axis=0)
    chosen = (weights > 0) & ~np.isnan(d)
    return d[chosen], weights[chosen]
