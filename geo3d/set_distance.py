"""The distance between two sets of samples by their features, whatever made the features.

Notation: n and m samples, d features.

The squared maximum mean discrepancy of the kernel (x.y / d + 1)^3, in its unbiased form: its mean
over draws is 0 where both sets come from one law, however small they are, so a value may be
negative.  A Fréchet distance would grow as the sets shrink.

Source: Gretton et al., "A Kernel Two-Sample Test" (2012), lemma 6; Binkowski et al. (2018) for the
kernel.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from geo3d.errors import InputError


def kernel_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Return the unbiased squared discrepancy between the laws of two sets.

    Raises:
        InputError: ``set_distance.too_few`` (fewer than 2 samples in a set).
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise InputError(
            "set_distance.too_few",
            f"Sets of {n} and {m} samples have no distance.",
            "Each needs 2 or more.",
        )
    x, y = x.astype(np.float64), y.astype(np.float64)
    own_x, own_y = _kernel(x, x), _kernel(y, y)
    within_x = (own_x.sum() - np.trace(own_x)) / (n * (n - 1))
    within_y = (own_y.sum() - np.trace(own_y)) / (m * (m - 1))
    return float(within_x + within_y - 2 * _kernel(x, y).mean())


def _kernel(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    return (x @ y.T / x.shape[1] + 1) ** 3
