"""Metrics of a predicted mask P against a true mask T: overlap, distance, topology, skeletons.

Every metric takes two masks of one class and shape, 2D or 3D, and gives one number.

* Dice: 2 |P and T| / (|P| + |T|).
* HD95, two definitions from the distances of each mask's surface pixels to the other surface:
  "medpy" pools both lists and takes the 95th percentile; "monai" takes the percentile of each list
  and then the larger one.
* Betti errors: |b_k(P) - b_k(T)| for each dimension k, on the whole mask ("global") or averaged
  over tiles ("local").
* Betti matching errors: the number of features that P and T do not share *in place*: components,
  holes (3D: cavities) and tunnels.  One component of P and one of T are the same if they lie in one
  component of (P or T); one hole of P and one of T if they overlap; tunnels if they are one tunnel
  of (P or T), `geo3d.topology.shared_tunnels`.  Each is matched once, and as many as can be are.
* Euler error: |chi(P) - chi(T)|.
* clDice (Shit et al. 2021): harmonic mean of its two parts, topology precision (the part of P's
  skeleton inside T) and topology sensitivity (the part of T's inside P).
* Normalised surface Dice (Nikolov et al. 2018): the part of both surfaces that lies within a
  tolerance of the other one.

Empty masks.  Both empty: Dice, clDice and surface Dice 1, HD95 0.  One empty: 0, HD95 the diagonal
of the array, the largest distance there can be.  An empty mask has no component.  ``compat=True``
gives the published code's numbers instead: HD95 `MISSING` for an empty prediction (its tables put
the diagonal), one component in an empty mask, clDice NaN where nothing is covered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool
from scipy import sparse
from scipy.sparse.csgraph import maximum_bipartite_matching

from geo3d.errors import ConfigError, InputError, ShapeError
from geo3d.topology.betti import betti_numbers, euler_number, numbers_of
from geo3d.topology.grids import (
    Pixels,
    as_mask,
    check_not_flat,
    check_pixels,
    check_spacing,
    label_components,
    surface_distances,
)
from geo3d.topology.shared_tunnels import shared_tunnels
from geo3d.topology.skeleton import hard_skeleton

MISSING = 9_999_999.0
"""The published code's HD95 of an empty prediction."""

# Unequal shapes are reported by the functions, so the annotation does not name the axes.
Mask = np.ndarray
HausdorffDefinition = Literal["medpy", "monai"]


def dice(predicted: Mask, true: Mask) -> float:
    """Return the Dice overlap in [0, 1].

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_a_mask", "topology.unequal_shapes",
            "topology.flat".
    """
    one, two = _pair(predicted, true)
    total = np.count_nonzero(one) + np.count_nonzero(two)
    return 2 * np.count_nonzero(one & two) / total if total else 1.0


def hausdorff_95(
    predicted: Mask, true: Mask, definition: HausdorffDefinition = "medpy", *, compat: bool = False
) -> float:
    """Return the 95th percentile of surface distances, in pixels.

    Raises:
        ShapeError: as `dice`.
        InputError: "topology.empty_truth" with ``compat``, where the published code fails.
        ConfigError: "topology.unknown_definition".
    """
    one, two = _pair(predicted, true)
    check_definition(definition)
    if compat and not two.any():
        raise InputError(
            "topology.empty_truth",
            "The published HD95 is undefined for an empty true mask.",
            "Leave compat off: then the rule for empty masks applies.",
        )
    if not (one.any() and two.any()):
        return _hausdorff_of_empty(one, two, compat)
    there, back = surface_distances(one, two), surface_distances(two, one)
    if definition == "medpy":
        return float(np.percentile(np.concatenate([there, back]), 95))
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def check_definition(definition: str) -> None:
    """Refuse an unknown definition of HD95 (code "topology.unknown_definition")."""
    if definition not in ("medpy", "monai"):
        raise ConfigError(
            "topology.unknown_definition",
            f"There is no definition of HD95 called {definition!r}.",
            "Known: medpy, monai.",
        )


def betti_errors(
    predicted: Mask, true: Mask, pixels: Pixels = "cells", *, compat: bool = False
) -> tuple[int, ...]:
    """Return the global errors, one per dimension.

    Raises:
        ShapeError: as `dice`.
        ConfigError: "topology.unknown_pixels".
    """
    check_pixels(pixels)
    return _betti_errors(*_pair(predicted, true), pixels, compat=compat)


def _betti_errors(
    one: np.ndarray, two: np.ndarray, pixels: Pixels, *, compat: bool
) -> tuple[int, ...]:
    found, wanted = (numbers_of(mask, pixels, empty_is_one=compat) for mask in (one, two))
    return tuple(abs(a - b) for a, b in zip(found, wanted, strict=True))


def local_betti_errors(
    predicted: Mask,
    true: Mask,
    tile: int = 128,
    pixels: Pixels = "cells",
    *,
    compat: bool = False,
) -> tuple[float, ...]:
    """Return the errors per dimension, averaged over tiles of ``tile`` pixels that do not overlap.

    Tiles at the far end of an axis are smaller where ``tile`` does not divide its length.

    Raises:
        ShapeError: as `dice`.
        ConfigError: "topology.bad_tile", "topology.unknown_pixels".
    """
    check_pixels(pixels)
    one, two = _pair(predicted, true)
    if tile < 1:
        raise ConfigError("topology.bad_tile", f"A tile of {tile} pixels.", "Give 1 or more.")
    counts = [math.ceil(n / tile) for n in one.shape]
    errors = []
    for corner in np.ndindex(*counts):
        box = tuple(slice(i * tile, (i + 1) * tile) for i in corner)
        errors.append(_betti_errors(one[box], two[box], pixels, compat=compat))
    return tuple(float(mean) for mean in np.mean(errors, axis=0))


def betti_matching_errors(predicted: Mask, true: Mask, pixels: Pixels = "cells") -> tuple[int, ...]:
    """Return the numbers of unmatched components, (3D: tunnels,) and holes (3D: cavities).

    This is the count of the matching that the Betti matching loss uses, for masks.  There, which
    of several overlapping holes is taken depends on the order of pixels, and the last component
    of a mask always finds a partner; here the number is the same for mirrored masks, and masks
    that share nothing match nothing.

    Raises:
        ShapeError: as `dice`.
        ConfigError: "topology.unknown_pixels".
    """
    check_pixels(pixels)
    one, two = _pair(predicted, true)
    corners = pixels == "cells"
    both = label_components(one | two, corners=corners)[0]
    shared = np.intersect1d(both[one], both[two]).size
    components = label_components(one, corners=corners)[1]
    components += label_components(two, corners=corners)[1] - 2 * shared
    outsides = [label_components(~np.pad(mask, 1), corners=not corners) for mask in (one, two)]
    (first, n_first), (second, n_second) = outsides
    # Label 1 is the outside: the first pixel of the padding.
    overlaps = (first > 1) & (second > 1)
    pairs = sparse.coo_array(
        (np.ones(np.count_nonzero(overlaps)), (first[overlaps], second[overlaps])),
        shape=(n_first + 1, n_second + 1),
    )
    matched = np.count_nonzero(maximum_bipartite_matching(pairs.tocsr()) >= 0)
    holes = int(n_first + n_second - 2 - 2 * matched)
    if one.ndim == 2:
        return int(components), holes
    tunnels = sum(betti_numbers(mask, pixels)[1] for mask in (one, two))
    return int(components), tunnels - 2 * shared_tunnels(one, two, pixels), holes


def cl_dice(predicted: Mask, true: Mask, *, compat: bool = False) -> float:
    """Return the centre-line Dice in [0, 1], or NaN with ``compat`` where nothing is covered.

    Raises:
        ShapeError: as `dice`.
    """
    one, two = _pair(predicted, true)
    if not compat and not (one.any() and two.any()):
        return float(one.any() == two.any())
    return harmonic_mean(_skeletons_covered(one, two), math.nan if compat else 0.0)


def centreline_parts(predicted: Mask, true: Mask) -> tuple[float, float]:
    """Return topology precision and sensitivity in [0, 1], the two parts of clDice.

    Precision falls with false lines, sensitivity with gaps.  A mask without a skeleton has nothing
    wrong (precision 1) or nothing to be found (sensitivity 1).

    Raises:
        ShapeError: as `dice`.
    """
    precision, sensitivity = _skeletons_covered(*_pair(predicted, true))
    return (
        1.0 if math.isnan(precision) else precision,
        1.0 if math.isnan(sensitivity) else sensitivity,
    )


def euler_error(predicted: Mask, true: Mask, pixels: Pixels = "cells") -> int:
    """Return the difference of the Euler characteristics.

    The fastest of the topological metrics, and the weakest: a missing component and a missing hole
    cancel.

    Raises:
        ShapeError: as `dice`.
        ConfigError: "topology.unknown_pixels".
    """
    one, two = _pair(predicted, true)
    return abs(euler_number(one, pixels) - euler_number(two, pixels))


def surface_dice(
    predicted: Mask, true: Mask, tolerance: float = 1.0, spacing: Sequence[float] | None = None
) -> float:
    """Return the normalised surface Dice in [0, 1].

    Args:
        predicted: mask.
        true: mask.
        tolerance: distance up to which surfaces agree, in the unit of ``spacing``.  What two
            people who draw the same outline differ by is a good choice.
        spacing: size of a pixel along each axis; 1 by default.

    Raises:
        ShapeError: as `dice`.
        ConfigError: "topology.bad_tolerance", "topology.bad_spacing".
    """
    one, two = _pair(predicted, true)
    if not tolerance >= 0:
        raise ConfigError("topology.bad_tolerance", f"A tolerance of {tolerance}.", "0 or more.")
    check_spacing(spacing, one.ndim)
    if not (one.any() and two.any()):
        return float(one.any() == two.any())
    there, back = surface_distances(one, two, spacing), surface_distances(two, one, spacing)
    near = np.count_nonzero(there <= tolerance) + np.count_nonzero(back <= tolerance)
    return near / (len(there) + len(back))


def harmonic_mean(parts: tuple[float, float], without: float = 0.0) -> float:
    """Return the harmonic mean of two parts of 1; ``without`` where both are 0."""
    return 2 * parts[0] * parts[1] / sum(parts) if sum(parts) != 0 else without


def _skeletons_covered(one: np.ndarray, two: np.ndarray) -> tuple[float, float]:
    return _covered(hard_skeleton(one), two), _covered(hard_skeleton(two), one)


def _covered(skeleton: Bool[np.ndarray, "*space"], mask: Bool[np.ndarray, "*space"]) -> float:
    total = np.count_nonzero(skeleton)
    return np.count_nonzero(skeleton & mask) / total if total else math.nan


def _hausdorff_of_empty(one: np.ndarray, two: np.ndarray, compat: bool) -> float:
    if compat:
        return MISSING
    if not one.any() and not two.any():
        return 0.0
    return math.sqrt(sum((n - 1) ** 2 for n in one.shape))


def _pair(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one, two = as_mask(predicted), as_mask(true)
    if one.shape != two.shape:
        raise ShapeError(
            "topology.unequal_shapes",
            f"The masks have different shapes, {one.shape} and {two.shape}.",
            "Compare masks of one image at one size.",
        )
    check_not_flat(one)
    return one, two
