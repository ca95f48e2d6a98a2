"""Betti matching loss: features of the prediction should be those of the truth, where they are.

Notation: u the probability of one class, g its true map, superlevel sets of both; (b, d) the levels
of birth and death of a feature, d = 0 for the component that never dies.  Matched features are
those of `geo3d.topology.matching`.

    cost = sum over matched of 2 [(b_u - b_g)^2 + (d_u - d_g)^2] + sum over all others of (b - d)^2
    loss = Dice term + weight x mean over images and foreground classes of cost per 48^2 pixels

* ``relative`` puts a frame of the largest value around both maps, so that lines that leave the
  picture close loops with its border.
* The published loss takes eight random windows of 48^2 pixels per image, as its matching is slow;
  here whole images are the default and `windows` asks for random ones.  "Per 48^2 pixels" keeps
  ``weight`` comparable.
* Features of the truth alone cost a constant: they count in the value, and have no gradient.
* Volumes: components and cavities; tunnels are left out.

``compat``: pixels read as "vertices" and matches of features that the comparison does not show.
Source: Stucki et al., Topologically faithful image segmentation via induced matching of persistence
barcodes (ICML 2023).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from geo3d.errors import ConfigError
from geo3d.topology.grids import Pixels
from geo3d.topology.losses.features import take
from geo3d.topology.losses.inputs import one_hot, probabilities
from geo3d.topology.losses.overlap import dice_term
from geo3d.topology.matching import Matching, match_features

AREA = 48 * 48
"""Pixels to which the cost of an image is related."""


def betti_matching_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    weight: float = 0.5,
    pixels: Pixels = "cells",
    relative: bool = True,
    windows: int | None = None,
    generator: torch.Generator | None = None,
    compat: bool = False,
) -> Float[Tensor, ""]:
    """Return Dice term plus ``weight`` times the mean cost of the module.

    Args:
        logits: raw scores.
        target: labels or a soft target.
        weight: of the matching cost.
        pixels: which pixels touch; "vertices" with ``compat``.
        relative: put a frame around the maps.
        windows: random windows of 48 pixels a side per image; None takes whole images.
        generator: where windows come from (CPU).
        compat: reproduce the published code.

    Raises:
        InputError: see `check_inputs`.
        ConfigError: "loss.bad_windows", "topology.unknown_pixels".
    """
    base = dice_term(logits, target)
    u, g = probabilities(logits)[:, 1:], one_hot(target, logits)[:, 1:]
    if windows is not None:
        u, g = _random_windows(u, g, windows, generator)
    u, g = u.flatten(0, 1), g.flatten(0, 1)
    kind = "vertices" if compat else pixels
    cost = betti_matching_cost(u, g, pixels=kind, relative=relative, loose=compat)
    return base + weight * cost * (AREA / u.numel())


def betti_matching_cost(
    predicted: Float[Tensor, "n ..."],
    true: Float[Tensor, "n ..."],
    *,
    pixels: Pixels = "cells",
    relative: bool = True,
    loose: bool = False,
) -> Float[Tensor, ""]:
    """Return the cost of n pairs of maps in [0, 1], summed; see the module.

    Raises:
        ConfigError: "topology.unknown_pixels".
    """
    (values_u, source_u), (values_g, source_g) = (_levels(e, relative) for e in (predicted, true))
    u, g = predicted.reshape(-1), true.detach().reshape(-1)
    total = u.sum() * 0
    for found in match_features(values_u, values_g, pixels, loose=loose):
        places = _lift(found, source_u, source_g)
        apart = take(u, places.matched[:, :2]) - take(g, places.matched[:, 2:])
        total = total + 2 * (apart**2).sum()
        for flat, alone in ((u, places.predicted), (g, places.true)):
            total = total + ((take(flat, alone[:, 0]) - take(flat, alone[:, 1])) ** 2).sum()
    return total


def _levels(
    maps: Float[Tensor, "n ..."], relative: bool
) -> tuple[Float[np.ndarray, "n ..."], Int64[np.ndarray, "n ..."]]:
    """Return values, with a frame if asked, and the pixel that each comes from."""
    values = maps.detach().cpu().numpy()
    n, *space = values.shape
    source = np.arange(values.size).reshape(values.shape)
    if relative:
        framed = np.empty((n, *(side + 2 for side in space)), dtype=np.int64)
        best = values.reshape(n, -1).argmax(axis=1) + np.arange(n) * (values.size // n)
        framed[...] = best.reshape(n, *(1 for _ in space))
        framed[(slice(None), *(slice(1, -1) for _ in space))] = source
        source = framed
    return values.reshape(-1)[source], source


def _lift(found: Matching, source_u: np.ndarray, source_g: np.ndarray) -> Matching:
    """Turn places in the framed maps into pixels of the maps; -1 stays."""
    u, g = (np.append(source.reshape(-1), -1) for source in (source_u, source_g))
    matched = np.concatenate([u[found.matched[:, :2]], g[found.matched[:, 2:]]], axis=1)
    return Matching(matched, u[found.predicted], g[found.true])


def _random_windows(
    u: Float[Tensor, "b c *space"],
    g: Float[Tensor, "b c *space"],
    windows: int,
    generator: torch.Generator | None,
) -> tuple[Float[Tensor, "n c *side"], Float[Tensor, "n c *side"]]:
    if windows < 1 or generator is None:
        raise ConfigError(
            "loss.bad_windows",
            f"{windows} random windows, generator {generator}.",
            "Ask for 1 or more and pass a torch.Generator; None takes whole images.",
        )
    cut_u, cut_g = [], []
    for item in range(len(u)):
        for _ in range(windows):
            box = (slice(None), *(_random_side(n, generator) for n in u.shape[2:]))
            cut_u.append(u[item][box])
            cut_g.append(g[item][box])
    return torch.stack(cut_u), torch.stack(cut_g)


def _random_side(n: int, generator: torch.Generator) -> slice:
    side = min(48, n)
    start = int(torch.randint(n - side + 1, (1,), generator=generator))
    return slice(start, start + side)
