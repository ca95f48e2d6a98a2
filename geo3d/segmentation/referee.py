"""Which of several folders of masks is better, and how sure can one be?

Every image's masks are measured against the truth under a base reading and under variations of it,
one at a time: how pixels touch (8/4 and 4/8; 26/6 and 6/26), the tolerance of surfaces, the size
below which components and holes do not count, and noise in the truth's outline.

* Difference of two methods: mean over images of one's metric minus the other's, with the p-value of
  random signs per image (`geo3d.segmentation.significance`), Holm over pairs and metrics.
* Annotation floor: what the truth itself scores against its own outline redrawn with noise of half
  a pixel.  Differences smaller than the floor's distance from perfect are within what two
  annotators differ by.
* Flip: the order of two methods is another one under a variation than under the base reading.

Noise: the signed distance to the outline plus a smooth random field of a given strength in pixels,
drawn from the image's name, so every method meets the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from geo3d.segmentation.significance import holm, sign_flip_p
from geo3d.topology.grids import Pixels, label_components
from geo3d.topology.metrics import (
    betti_errors,
    betti_matching_errors,
    centreline_parts,
    cl_dice,
    dice,
    surface_dice,
)
from geo3d.topology.partitions import partition_metrics

HIGHER_IS_BETTER = frozenset(
    {"Dice", "clDice", "TopologyPrecision", "TopologySensitivity", "SurfaceDice", "ARI"}
)
SIGNIFICANT = 0.05
_SMOOTH = 8.0
"""Pixels over which the noise of an outline is alike."""


@dataclass(frozen=True)
class Reading:
    """How masks are read before they are measured."""

    name: str
    pixels: Pixels = "cells"
    tolerance: float = 2.0
    """Of surfaces, pixels."""
    smallest: int = 0
    """Components and holes of fewer pixels do not count."""
    noise: float = 0.0
    """Strength of the noise in the truth's outline, pixels."""
    draw: int = 0
    """Number of the noise."""


BASE = Reading("base")
READINGS = (
    BASE,
    Reading("vertices", pixels="vertices"),
    Reading("tolerance 1", tolerance=1.0),
    Reading("tolerance 4", tolerance=4.0),
    Reading("10 pixels or more", smallest=10),
    Reading("100 pixels or more", smallest=100),
    Reading("noise 0.5, first", noise=0.5),
    Reading("noise 0.5, second", noise=0.5, draw=1),
    Reading("noise 1, first", noise=1.0),
    Reading("noise 1, second", noise=1.0, draw=1),
)
"""The base reading and its variations."""
_FLOOR = ("noise 0.5, first", "noise 0.5, second")


def measure_masks(
    masks: Mapping[str, Bool[np.ndarray, "*space"]],
    true: Bool[np.ndarray, "*space"],
    name: str,
) -> dict[str, dict[str, dict[str, float]]]:
    """Return reading to method to metric to number; the truth's own line is called "".

    Args:
        masks: by method.
        true: the label.
        name: of the image; the noise follows from it.

    Raises:
        ShapeError: "topology.unequal_shapes", "topology.bad_dimensions".
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for reading in READINGS:
        label = redrawn(true, reading.noise, f"{name}/{reading.draw}")
        everything = {**masks, "": true} if reading.noise else masks
        found[reading.name] = {
            method: _measured(mask, label, reading) for method, mask in everything.items()
        }
    return found


def redrawn(
    mask: Bool[np.ndarray, "*space"], noise: float, name: str
) -> Bool[np.ndarray, "*space"]:
    """Return a mask whose outline is moved by smooth random distances.

    Args:
        mask: what was drawn.
        noise: standard deviation of the distances, pixels; 0 returns the mask.
        name: what the random numbers follow from.
    """
    if not noise or not mask.any() or mask.all():
        return mask
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    field = np.random.default_rng(seed).standard_normal(mask.shape)
    field = ndimage.gaussian_filter(field, _SMOOTH)
    inside, outside = (ndimage.distance_transform_edt(m) for m in (mask, ~mask))
    # Outlines run between pixels: half a pixel on each side.
    height = np.where(mask, np.asarray(inside) - 0.5, 0.5 - np.asarray(outside))
    return height + noise * field / field.std() > 0


def without_small(
    mask: Bool[np.ndarray, "*space"], smallest: int, pixels: Pixels
) -> Bool[np.ndarray, "*space"]:
    """Return a mask without components and holes of fewer pixels."""
    if smallest < 2:
        return mask
    for corners in (pixels == "cells", pixels != "cells"):
        labels, count = label_components(mask, corners=corners)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        small = sizes < smallest
        if corners != (pixels == "cells"):
            # The second turn is the background's; what reaches the border is no hole.
            edge = np.ones(mask.shape, dtype=bool)
            edge[(slice(1, -1),) * mask.ndim] = False
            small[np.unique(labels[edge])] = False
        small[0] = False
        mask = ~(mask & ~small[labels])
    return mask


def _measured(mask: np.ndarray, label: np.ndarray, reading: Reading) -> dict[str, float]:
    mask, label = (without_small(m, reading.smallest, reading.pixels) for m in (mask, label))
    betti = betti_errors(mask, label, reading.pixels)
    precision, sensitivity = centreline_parts(mask, label)
    regions = partition_metrics(mask, label, pixels=reading.pixels)
    return {
        **{f"Betti{k}": float(error) for k, error in enumerate(betti)},
        "BettiMatching": float(sum(betti_matching_errors(mask, label, reading.pixels))),
        "Dice": dice(mask, label),
        "clDice": cl_dice(mask, label),
        "TopologyPrecision": precision,
        "TopologySensitivity": sensitivity,
        "SurfaceDice": surface_dice(mask, label, reading.tolerance),
        "ARI": regions.adjusted_rand_index,
        "AdaptedRandError": regions.adapted_rand_error,
        "VOI": regions.variation_of_information,
    }


@dataclass(frozen=True)
class Verdict:
    """Two methods in one metric."""

    metric: str
    better: str
    """The method with the better mean under the base reading."""
    worse: str
    difference: float
    """Of their means, at least 0."""
    p: float
    """Corrected after Holm."""
    floor: float | None
    """How far from perfect the truth is against itself redrawn; None where it was not measured."""
    flips: tuple[str, ...]
    """Readings under which the order is the other one."""

    @property
    def is_sure(self) -> bool:
        """Whether the difference is significant, above the floor, and never flips."""
        above = self.floor is None or self.difference > self.floor
        return self.p < SIGNIFICANT and above and not self.flips


Results = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
"""Image to reading to method to metric to number, see `measure_masks`."""


def mean_table(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """Return reading to method to metric to the mean over images."""
    first = next(iter(results.values()))
    return {
        reading: {
            method: {
                metric: float(_values(results, reading, method, metric).mean()) for metric in row
            }
            for method, row in methods.items()
        }
        for reading, methods in first.items()
    }


def verdicts(results: Results, seed: int = 0) -> list[Verdict]:
    """Compare every two methods in every metric.

    Args:
        results: of all images.
        seed: of the random signs.
    """
    means = mean_table(results)
    methods = [name for name in means[BASE.name] if name]
    found = []
    for metric in next(iter(means[BASE.name].values())):
        sign = 1 if metric in HIGHER_IS_BETTER else -1
        for one, two in combinations(methods, 2):
            d = sign * (
                _values(results, BASE.name, one, metric) - _values(results, BASE.name, two, metric)
            )
            stream = np.random.default_rng([seed, *f"{metric}/{one}/{two}".encode()])
            p = sign_flip_p(d, stream)
            better, worse = (one, two) if d.mean() >= 0 else (two, one)
            gains = {r: sign * (m[better][metric] - m[worse][metric]) for r, m in means.items()}
            flips = tuple(r for r, gain in gains.items() if gain < 0)
            floor = _floor(means, metric)
            found.append(Verdict(metric, better, worse, abs(float(d.mean())), p, floor, flips))
    corrected = holm([verdict.p for verdict in found])
    return [replace(v, p=p) for v, p in zip(found, corrected, strict=True)]


def _floor(means: Mapping[str, Mapping[str, Mapping[str, float]]], metric: str) -> float | None:
    known = [means[r][""][metric] for r in _FLOOR if "" in means.get(r, {})]
    if not known:
        return None
    mean = float(np.mean(known))
    return 1 - mean if metric in HIGHER_IS_BETTER else mean


def _values(results: Results, reading: str, method: str, metric: str) -> Float[np.ndarray, " n"]:
    values = [image[reading][method][metric] for image in results.values()]
    return np.array(values, dtype=np.float64)
