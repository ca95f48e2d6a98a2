"""Betti matching loss: features of the prediction should be those of the truth, where they are.

Notation: u the probability of one class, g its true map, superlevel sets of both; (b, d) the levels
of birth and death of a feature, d = 0 for the component that never dies.  Matched features are
those of `geo3d.topology.matching`.

    cost = sum over matched of 2 [(b_u - b_g)^2 + (d_u - d_g)^2] + sum over all others of (b - d)^2
    loss = Dice term + weight x mean over images and foreground classes of cost per 48^2 pixels

* ``relative`` puts a frame of the largest value around both maps, so that lines that leave the
  image close loops with its border.
* The published loss takes eight random windows of 48^2 pixels per image, as its matching is slow;
  here whole images are the default and `windows` asks for random ones.  "Per 48^2 pixels" keeps
  ``weight`` comparable.
* Features of the truth alone cost a constant: they count in the value, and have no gradient.
* Volumes: components, tunnels and cavities.

``compat``: pixels read as "vertices" and matches of features that the comparison does not show.
Source: Stucki et al., Topologically faithful image segmentation via induced matching of persistence
barcodes (ICML 2023).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from typing_extensions import Unpack

from geo3d.errors import ConfigError
from geo3d.topology.grids import Pixels, check_pixels
from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.features import take
from geo3d.topology.losses.options import Options, eager, judge, published
from geo3d.topology.losses.overlap import dice_items
from geo3d.topology.matching import Matching, match_features

AREA = 48 * 48
"""Pixels to which the cost of an image is related."""


@eager
def betti_matching_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    lambd: float = 0.5,
    pixels: Pixels = "cells",
    relative: bool = True,
    windows: int | None = None,
    generator: torch.Generator | None = None,
    compat: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return Dice term plus ``lambd`` times the mean cost of the module.

    Args:
        logits: raw scores.
        target: labels or a soft target.
        lambd: weight of the matching cost.
        pixels: which pixels touch; "vertices" with ``compat``.
        relative: put a frame around the maps.
        windows: random windows of 48 pixels a side per image; None takes whole images.
        generator: where windows come from (CPU).
        compat: reproduce the published code.
        options: see `Options`.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.bad_windows",
            "topology.unknown_pixels".
    """
    if compat:
        published(options)
    check_pixels(pixels)
    kind: Pixels = "vertices" if compat else pixels

    def items(batch: Batch) -> Tensor:
        u, g, outside = _maps(batch, windows, generator)
        costs = matching_costs(u, g, outside, pixels=kind, relative=relative, loose=compat)
        sizes = u[0].numel() if outside is None else (~outside).reshape(len(u), -1).sum(axis=1)
        sizes = torch.as_tensor(np.maximum(sizes, 1)).to(costs)
        # Windows of one map follow each other.
        means = (costs * (AREA / sizes)).reshape(*batch.own.shape[:2], -1).mean(dim=2)
        return dice_items(batch) + lambd * batch.channel_mean(means)

    return judge(items, logits, target, options)


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
    return matching_costs(predicted, true, pixels=pixels, relative=relative, loose=loose).sum()


def matching_costs(
    predicted: Float[Tensor, "n ..."],
    true: Float[Tensor, "n ..."],
    outside: Bool[np.ndarray, "n ..."] | None = None,
    *,
    pixels: Pixels = "cells",
    relative: bool = True,
    loose: bool = False,
) -> Float[Tensor, " n"]:
    """Return the cost of each pair of maps; pixels outside count as frame.

    Raises:
        ConfigError: "topology.unknown_pixels".
    """
    (values_u, source_u), (values_g, source_g) = (
        _levels(e, relative, outside) for e in (predicted, true)
    )
    u, g = predicted.reshape(-1), true.detach().reshape(-1)
    size = predicted[0].numel()
    total = u.new_zeros(len(predicted)) + u.sum() * 0

    def add(total: Tensor, places: np.ndarray, costs: Tensor) -> Tensor:
        of_map = torch.from_numpy(places // size).to(u.device)
        return total.index_add(0, of_map, costs)

    for found in match_features(values_u, values_g, pixels, loose=loose):
        places = _lift(found, source_u, source_g)
        apart = take(u, places.matched[:, :2]) - take(g, places.matched[:, 2:])
        total = add(total, places.matched[:, 0], 2 * (apart**2).sum(dim=1))
        for flat, alone in ((u, places.predicted), (g, places.true)):
            lives = take(flat, alone[:, 0]) - take(flat, alone[:, 1])
            total = add(total, alone[:, 0], lives**2)
    return total


def _levels(
    maps: Float[Tensor, "n ..."], relative: bool, outside: Bool[np.ndarray, "n ..."] | None
) -> tuple[Float[np.ndarray, "n ..."], Int64[np.ndarray, "n ..."]]:
    """Return values, with a frame if asked, and the pixel that each comes from."""
    values = maps.detach().cpu().numpy()
    n, *space = values.shape
    source = np.arange(values.size).reshape(values.shape)
    if relative:
        framed = np.empty((n, *(side + 2 for side in space)), dtype=np.int64)
        best = values.reshape(n, -1).argmax(axis=1) + np.arange(n) * (values.size // n)
        best = best.reshape(n, *(1 for _ in space))
        framed[...] = best
        if outside is not None:
            source = np.where(outside, best, source)
        framed[(slice(None), *(slice(1, -1) for _ in space))] = source
        source = framed
    return values.reshape(-1)[source], source


def _maps(
    batch: Batch, windows: int | None, generator: torch.Generator | None
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, "n ..."], Bool[np.ndarray, "n ..."] | None]:
    """Return prediction, truth and what is not annotated of each item, channel and window."""
    u, g = batch.own, batch.wanted
    outside = None
    if batch.outside is not None:
        outside = np.broadcast_to(batch.outside[:, None], tuple(u.shape))
    if windows is None:
        flat = None if outside is None else outside.reshape(-1, *u.shape[2:])
        return u.flatten(0, 1), g.flatten(0, 1), flat
    if windows < 1 or generator is None:
        raise ConfigError(
            "loss.bad_windows",
            f"{windows} random windows, generator {generator}.",
            "Ask for 1 or more and pass a torch.Generator; None takes whole images.",
        )
    boxes = [
        [(slice(None), *(_random_side(n, generator) for n in u.shape[2:])) for _ in range(windows)]
        for _ in range(len(u))
    ]

    def cut(maps: Tensor) -> Tensor:
        per_item = [
            torch.stack([item[box] for box in own], dim=1)
            for item, own in zip(maps, boxes, strict=True)
        ]
        return torch.stack(per_item).flatten(0, 2)

    hidden = None if outside is None else cut(torch.from_numpy(outside.copy())).numpy()
    return cut(u), cut(g), hidden


def _lift(found: Matching, source_u: np.ndarray, source_g: np.ndarray) -> Matching:
    """Turn places in the framed maps into pixels of the maps; -1 stays."""
    u, g = (np.append(source.reshape(-1), -1) for source in (source_u, source_g))
    matched = np.concatenate([u[found.matched[:, :2]], g[found.matched[:, 2:]]], axis=1)
    return Matching(matched, u[found.predicted], g[found.true])


def _random_side(n: int, generator: torch.Generator) -> slice:
    side = min(48, n)
    start = int(torch.randint(n - side + 1, (1,), generator=generator))
    return slice(start, start + side)
