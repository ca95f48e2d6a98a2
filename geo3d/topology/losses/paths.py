"""Path enforcement: between places that the label joins, the prediction's cheapest path is judged.

Notation: p probability and t true mask of a class, G a graph on t's skeleton with a node about
every `TILE` pixels.

For every two neighbouring nodes the cheapest path is sought in a box around them, at a price of 1 -
p (and a little more off the label) per pixel.  Where t is missed it leads through the gap, where
the gap is easiest to close.  Critical are the pixels of the path that are predicted wrongly.

    loss = CE + Dice term + lambd x mean over the critical pixels of their cross-entropy

A path looks for what joins two places: unlike the critical points of persistence, which level alone
decides, its pixels lie where the label wants the line.  False lines are left to the other terms.

Source: Esmaeilzadeh et al., CAPE: connectivity-aware path enforcement loss for curvilinear
structure delineation (MICCAI 2025), which sums squared predicted distances along such paths between
random nodes; here all neighbours are taken, so that nothing is drawn by lot, and scores are
probabilities.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.graph import MCP_Geometric
from torch import Tensor
from typing_extensions import Unpack

from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.memory import once_per_content
from geo3d.topology.losses.options import Options, judge
from geo3d.topology.losses.overlap import ce_dice_items
from geo3d.topology.skeleton import hard_skeleton

TILE = 12
"""Pixels from node to node, about."""
MARGIN = 6
"""Pixels around two nodes in which their path may run."""
STEP, ASIDE = 0.02, 0.1
"""What every pixel of a path costs, and one off the label."""

Piece = tuple[np.ndarray, np.ndarray]
"""The pixels (d,) of two neighbouring nodes."""


def path_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    lambd: float = 0.1,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return cross-entropy + Dice term + lambd x critical pixels of paths.

    Args:
        logits: scores.
        target: labels or soft target, whose likeliest labels are the true mask.
        lambd: weight of the paths.
        options: see `Options`; `spacing` counts.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`.
    """

    def items(batch: Batch) -> Tensor:
        return ce_dice_items(batch) + lambd * path_items(batch)

    return judge(items, logits, target, options)


def path_items(batch: Batch) -> Float[Tensor, " b"]:
    """Return the mean cross-entropy of the critical pixels of each item; 0 if there are none."""
    p = batch.own.detach().cpu().numpy()
    graphs: Any = _known_graphs(batch.true_masks)
    critical = np.zeros(p.shape, dtype=bool)
    for at in np.ndindex(p.shape[:2]):
        wrong = batch.guesses[at] != batch.true_masks[at]
        if wrong.any():
            path = cheapest_paths(p[at], batch.true_masks[at], graphs[at], batch.spacing)
            critical[at] = path & wrong
    return batch.channel_mean(batch.entropy_at(critical))


def cheapest_paths(
    p: Float[np.ndarray, "*space"],
    true: Bool[np.ndarray, "*space"],
    pieces: tuple[Piece, ...],
    spacing: tuple[float, ...],
) -> Bool[np.ndarray, "*space"]:
    """Return the pixels of the cheapest path between neighbouring nodes."""
    price = (1 - p).clip(0) + STEP + ASIDE * ~true
    chosen = np.zeros(true.shape, dtype=bool)
    for ends in pieces:
        low = np.maximum(np.minimum(*ends) - MARGIN, 0)
        box = tuple(map(slice, low, np.maximum(*ends) + MARGIN + 1))
        finder = MCP_Geometric(price[box], sampling=spacing)
        first, last = (tuple(int(v) for v in end - low) for end in ends)
        finder.find_costs([first], [last])
        chosen[box][tuple(np.array(finder.traceback(last)).T)] = True
    return chosen


def skeleton_pieces(true: Bool[np.ndarray, "*space"]) -> tuple[Piece, ...]:
    """Return pairs of neighbouring nodes of a mask's skeleton.

    The skeleton is cut by a grid of `TILE` pixels; what hangs together within a tile is a node, at
    the pixel nearest to its middle, and nodes that touch over the grid are neighbours.
    """
    pixels = np.argwhere(hard_skeleton(true))
    if len(pixels) < 2:
        return ()
    number = np.full(true.shape, -1)
    number[tuple(pixels.T)] = np.arange(len(pixels))
    padded = np.pad(number, 1, constant_values=-1)
    tiles: Any = np.ravel_multi_index(
        tuple((pixels // TILE).T), [n // TILE + 1 for n in true.shape]
    )
    steps = [step for step in product((-1, 0, 1), repeat=true.ndim) if step > (0,) * true.ndim]
    beside = np.stack([padded[tuple((pixels + 1 + step).T)] for step in steps])
    one = np.broadcast_to(np.arange(len(pixels)), beside.shape)[beside >= 0]
    two = beside[beside >= 0]
    same = tiles[one] == tiles[two]
    links = coo_array((np.ones(same.sum()), (one[same], two[same])), (len(pixels),) * 2)
    count, piece = connected_components(links, directed=False)
    size = np.bincount(piece, minlength=count)
    middle = np.stack([np.bincount(piece, x) / size for x in pixels.T.astype(float)], axis=1)
    away = ((pixels - middle[piece]) ** 2).sum(axis=1)
    order = np.lexsort((away, piece))
    node = pixels[order[np.searchsorted(piece[order], np.arange(count))]]
    pairs = np.unique(np.sort(np.stack([piece[one[~same]], piece[two[~same]]], axis=1)), axis=0)
    return tuple((node[a], node[b]) for a, b in pairs)


def _graphs(masks: Bool[np.ndarray, "b k *space"]) -> np.ndarray:
    found = np.empty(masks.shape[:2], dtype=object)
    for at in np.ndindex(found.shape):
        found[at] = skeleton_pieces(masks[at])
    return found


_known_graphs = once_per_content(_graphs)
