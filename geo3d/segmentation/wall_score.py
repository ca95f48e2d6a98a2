"""How probable it is that an image shows a wall at all: a calibrated number beside every mask.

A segmenter of mortar finds some in grass as well.  Two kinds of numbers tell a wall from the rest:

* what the mask is like: in a wall, mortar is one net and what it leaves over are pieces of simple
  shape and like size.  The *fill* of a piece is its area over that of the parallelogram of the same
  second moments, A / (12 sqrt(det S)): 1 for every parallelogram, pi / 3 for an ellipse, less for
  ragged and branched pieces, whatever the perspective;
* what the encoder sees: its features at strides 16 and 32, averaged over the image.

A logistic regression of both says yes or no; its strength is chosen, and its probabilities are
calibrated, on folds that were kept aside (Platt 1999).  Walls and other images count alike: 1/2 is
"as many walls as others give this number".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional

from geo3d.segmentation.lite0 import Lite0Encoder
from geo3d.topology.grids import label_components

SEEN_SIDE = 384
"""Images are reduced to this longest side, for the encoder and for the mask's shape."""
LEAST_PIECE = 24
"""Smaller pieces, in pixels, have no shape."""
GOOD_FILL = 0.9
FOLDS = 5
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Penalties to choose from, per squared weight of a standardised number."""


@dataclass(frozen=True, eq=False)
class WallScore:
    """A logistic regression on `wall_features`."""

    mean: Float64[np.ndarray, " n"]
    deviation: Float64[np.ndarray, " n"]
    weight: Float64[np.ndarray, " n"]
    bias: float

    def probability(self, features: Float64[np.ndarray, " n"]) -> float:
        """Return how probable it is that the image shows a wall."""
        score = float((features - self.mean) / self.deviation @ self.weight) + self.bias
        return 1 / (1 + math.exp(-min(max(score, -30.0), 30.0)))

    def tensors(self) -> dict[str, Tensor]:
        """Return what is kept in a file, by name."""
        named = {"mean": self.mean, "deviation": self.deviation, "weight": self.weight}
        tensors = {name: torch.from_numpy(values).float() for name, values in named.items()}
        return {**tensors, "bias": torch.tensor([self.bias])}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> WallScore:
        """Return what `tensors` gave."""
        named = {n: tensors[n].double().numpy() for n in ("mean", "deviation", "weight")}
        return cls(**named, bias=float(tensors["bias"]))


def wall_features(
    encoder: Lite0Encoder,
    image: Float[np.ndarray, "3 h w"],
    mortar: Float[np.ndarray, "h w"],
) -> Float64[np.ndarray, " n"]:
    """Return the numbers that tell walls from other images.

    Args:
        encoder: of the segmenter.
        image: the whole image, normalised.
        mortar: probability of mortar that the segmenter found.
    """
    stacked = np.concatenate([image, mortar[None]]).astype(np.float32)
    seen = _reduced(torch.from_numpy(stacked)[None])
    with torch.no_grad():
        levels = encoder(seen[:, :3].to(next(encoder.parameters()).device))[-2:]
    means = [level.mean(dim=(0, 2, 3)).double().cpu().numpy() for level in levels]
    structure = mask_structure(seen[0, 3].double().numpy())
    return np.concatenate([[*structure.values()], *means])


def _reduced(image: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c y x"]:
    """Return the image with at most `SEEN_SIDE` pixels a side, in multiples of 32."""
    sides = image.shape[2:]
    scale = min(SEEN_SIDE / max(sides), 1.0)
    wanted = tuple(max(round(side * scale / 32), 1) * 32 for side in sides)
    if wanted == tuple(sides):
        return image
    return functional.interpolate(image, wanted, mode="bilinear", antialias=True)


def mask_structure(mortar: Float[np.ndarray, "h w"]) -> dict[str, float]:
    """Return what a mask is like, by name; where there is nothing to measure, 0.

    Share of mortar; mean of |2 p - 1|; share of the rest in pieces of good shape; log of one plus
    their number; mean fill, by area; spread of the logarithms of their areas; share of the mortar
    in its largest component.
    """
    mask = mortar > 0.5
    area, fill = _pieces(~mask)
    rest = max(int((~mask).sum()), 1)
    good = fill >= GOOD_FILL
    nets = np.bincount(label_components(mask, corners=True)[0].ravel())[1:]
    return {
        "mortar_share": float(mask.mean()),
        "certainty": float(abs(2 * mortar - 1).mean()),
        "good_share": float(area[good].sum()) / rest,
        "log_good_pieces": math.log1p(int(good.sum())),
        "mean_fill": float(fill @ area) / max(float(area.sum()), 1.0),
        "area_spread": float(np.log(area[good]).std()) if good.any() else 0.0,
        "largest_net": float(nets.max() / nets.sum()) if nets.size else 0.0,
    }


def _pieces(
    rest: Bool[np.ndarray, "h w"],
) -> tuple[Float64[np.ndarray, " p"], Float64[np.ndarray, " p"]]:
    """Return area and fill of each piece."""
    labels, count = label_components(rest, corners=False)
    at = labels.ravel()
    y, x = (place.ravel().astype(float) for place in np.indices(rest.shape))
    area, sum_y, sum_x, yy, xx, xy = (
        np.bincount(at, values, count + 1)[1:]
        for values in (np.ones(at.size), y, x, y * y, x * x, x * y)
    )
    keep = area >= LEAST_PIECE
    area, sum_y, sum_x, yy, xx, xy = (v[keep] for v in (area, sum_y, sum_x, yy, xx, xy))
    mean_y, mean_x = sum_y / area, sum_x / area
    # A pixel is a square, with moments of its own.
    var_y, var_x = yy / area - mean_y**2 + 1 / 12, xx / area - mean_x**2 + 1 / 12
    spread = var_y * var_x - (xy / area - mean_y * mean_x) ** 2
    return area, area / (12 * np.sqrt(np.maximum(spread, 1e-12)))


def fit_wall_score(
    walls: Sequence[Float64[np.ndarray, " n"]],
    others: Sequence[Float64[np.ndarray, " n"]],
    seed: int = 0,
) -> tuple[WallScore, dict[str, float]]:
    """Return the score learned from features of walls and of other images, and how good it is.

    Args:
        walls: features of images of walls.
        others: features of images of anything else.
        seed: of the folds.

    Returns:
        The score; "others_recognised" and "walls_refused" at 1/2, and "calibration_error" (mean
        distance of probability and share over ten bins), all on folds kept aside.
    """
    x = np.array([*walls, *others])
    y = np.repeat([1.0, 0.0], [len(walls), len(others)])
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    x = (x - mean) / deviation
    fold = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    aside = {s: _aside(x, y, fold, s) for s in STRENGTHS}
    strength = min(aside, key=lambda s: _log_loss(aside[s], y))
    slope, shift = _logistic(aside[strength][:, None], y, 1e-6)
    weight, bias = _logistic(x, y, strength)
    found = 1 / (1 + np.exp(-(slope * aside[strength] + shift)))
    numbers = {
        "others_recognised": float((found[y == 0] < 0.5).mean()),
        "walls_refused": float((found[y == 1] < 0.5).mean()),
        "calibration_error": _calibration_error(found, y),
        "strength": strength,
    }
    return WallScore(mean, deviation, slope * weight, float(slope[0] * bias + shift)), numbers


def _aside(x: np.ndarray, y: np.ndarray, fold: np.ndarray, strength: float) -> np.ndarray:
    """Return the score of each image, learned without its fold."""
    scores = np.zeros(len(y))
    for k in range(FOLDS):
        weight, bias = _logistic(x[fold != k], y[fold != k], strength)
        scores[fold == k] = x[fold == k] @ weight + bias
    return scores


def _logistic(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Return weights and bias; both classes count alike, weights cost strength / 2 each square."""
    share = np.where(y == 1, 0.5 / max(y.sum(), 1), 0.5 / max((1 - y).sum(), 1))

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ w[:-1] + w[-1]
        slope = share * (1 / (1 + np.exp(-np.clip(z, -50, 50))) - y)
        value = float(share @ np.logaddexp(0, np.where(y == 1, -z, z)))
        value += 0.5 * strength * float(w[:-1] @ w[:-1])
        return value, np.append(x.T @ slope + strength * w[:-1], slope.sum())

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return found[:-1], float(found[-1])


def _log_loss(scores: np.ndarray, y: np.ndarray) -> float:
    """Return the loss of scores after they are calibrated."""
    slope, shift = _logistic(scores[:, None], y, 1e-6)
    z = slope[0] * scores + shift
    return float(np.logaddexp(0, np.where(y == 1, -z, z)).mean())


def _calibration_error(found: np.ndarray, y: np.ndarray) -> float:
    bins = np.minimum((found * 10).astype(int), 9)
    gaps = [abs(found[bins == b].mean() - y[bins == b].mean()) for b in np.unique(bins)]
    sizes = [(bins == b).mean() for b in np.unique(bins)]
    return float(np.dot(gaps, sizes))
