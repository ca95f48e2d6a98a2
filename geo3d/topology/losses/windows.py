"""TOPO loss: maximin paths between pixels, in windows, must cross the line and nothing else.

Notation: y predicted map that is 0 on the line and D far from it, d the true one, edges join
neighbouring pixels at cost y_i + y_j.  In a maximum spanning tree the lowest edge between two
pixels is the lowest point of the best path that joins them.  For two pixels from different regions
(a gap leaks) that point must be on the line; for two from one region nothing may come between.

    loss = alpha x mean ((y - d) / D)^2
         + mean over windows of  sum w_n (y / D)^2 + beta x sum w_p ((D - y) / D)^2

w_n counts for each pixel near the line (d < D/4) the pairs of pixels from different regions that
are joined there, w_p for each pixel far from it (d >= D/2) the pairs from one region; both divided
by the number of pairs in the window.  Regions are the components of d >= D/4 in a window, joined
along the axes.  Windows make short gaps count in long lines; what is left at the right and lower
edges is a smaller window.

* One channel: y = max(score, 0) is a distance in pixels to the line, D = 20.
* Two channels or more: y = 1 - p of a foreground class (averaged over these), which is a distance
  clipped at one pixel, so D = 1.  There the same is also asked of the foreground (``both``), with
  all eight neighbours: parts of one component must hang together, different components must not.
  The distance map alone judges components only where they cut a window's background in two.
* Maps are cut into 1024 levels before sorting; costs within one level are taken in scan order.
* `compat` is the published code (one channel): the true map is the depth *inside* the label, w_p is
  zero, regions are pieces of the eroded label, sums instead of means, the remainder left out.

Source: Oner et al., Promoting connectivity of network-like structures by enforcing region
separation (TPAMI 2022); the counts are MALIS, Turaga et al. (NIPS 2009).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64, Shaped
from scipy import ndimage
from torch import Tensor
from typing_extensions import Unpack

from geo3d.errors import ConfigError, InputError
from geo3d.topology.grids import distance_map
from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.discrete_kernels import leak_counts, tile_shares
from geo3d.topology.losses.options import Options, eager, judge, published

LEVELS = 1023
"""Highest level of a map cut into whole numbers."""

CLIP = 20.0
"""Distances in pixels beyond which the one-channel map does not look."""


@eager
def topo_window_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, ...],
    *,
    window: int = 64,
    alpha: float = 4.0,
    beta: float = 0.1,
    both: bool = True,
    compat: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return the loss of a distance map (one channel) or of class scores (two or more).

    Args:
        logits: scores of images.
        target: labels or a soft target, which is judged by its most likely labels.
        window: side of the windows in pixels.
        alpha: weight of the squared error (4 is the published 0.001 times 64^2 pixels).
        beta: weight of what comes between pixels of one region.
        both: with class scores, judge the foreground too.
        compat: the published code; `alpha`, `beta`, `both` are its own then.
        options: see `Options`; `spacing` counts for distances.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.needs_images" for
            volumes; "loss.needs_one_channel" for `compat` with more than one channel;
            "loss.bad_window".
    """
    _check_window(logits, window, compat)
    if compat:
        published(options)

    def items(batch: Batch) -> Tensor:
        if batch.regions or logits.shape[1] > 1:
            return _class_items(batch, window, alpha, beta, both=both)
        if compat:
            return _published_items(batch, window)
        return _distance_items(batch, window, alpha, beta)

    return judge(items, logits, target, options, min_classes=1)


def _class_items(
    batch: Batch, window: int, alpha: float, beta: float, *, both: bool
) -> Float[Tensor, " b"]:
    """Return the loss of probabilities, averaged over the judged channels."""
    terms = []
    inside = _annotated(batch)
    for k in range(len(batch.judged)):
        p, line = batch.own[:, k], batch.true_masks[:, k]
        off = inside & ~line
        away = torch.from_numpy(off).to(p)
        outside = torch.where(away > 0, 1 - p, (1 - p) * torch.from_numpy(line).to(p))
        term = alpha * batch.pixel_mean((outside - away).square()[:, None])[:, 0]
        seen = (window, beta, inside)
        term = term + _region_terms(outside, line, off, seen, corners=False)
        if both:
            term = term + _region_terms(p, off, line, seen, corners=True)
        terms.append(term)
    return batch.channel_mean(torch.stack(terms, dim=1))


def _annotated(batch: Batch) -> Bool[np.ndarray, "b h w"]:
    if batch.outside is None:
        return np.ones((len(batch.logits), *batch.logits.shape[2:]), dtype=bool)
    return ~batch.outside


def _distance_items(batch: Batch, window: int, alpha: float, beta: float) -> Float[Tensor, " b"]:
    """Return the loss of a map of distances."""
    x, inside = batch.logits[:, 0], _annotated(batch)
    line = batch.labels.cpu().numpy() == 1
    depth = np.stack([np.minimum(distance_map(~item, batch.spacing), CLIP) for item in line]) / CLIP
    d = torch.from_numpy(depth).to(x)
    # Beyond the line's own value 0 a score may be as negative as it likes, elsewhere it may not.
    y = torch.where(d > 0, x / CLIP, torch.relu(x) / CLIP)
    error = alpha * batch.pixel_mean(batch.within((y - d).square()[:, None]))[:, 0]
    seen = (window, beta, inside)
    near, far = (depth < 0.25) & inside, (depth >= 0.5) & inside
    return error + _region_terms(y, near, far, seen, corners=False)


def _region_terms(
    y: Float[Tensor, "b h w"],
    near: Bool[np.ndarray, "b h w"],
    far: Bool[np.ndarray, "b h w"],
    seen: tuple[int, float, Bool[np.ndarray, "b h w"]],
    *,
    corners: bool,
) -> Float[Tensor, " b"]:
    """Return the mean over windows of both sums, for a map between 0 (near) and 1 (far).

    Args:
        y: the map.
        near: where the line is.
        far: where it is not.
        seen: side of the windows, weight of the second sum, what is annotated.
        corners: pixels that share a corner are neighbours.
    """
    window, beta, annotated = seen
    levels = np.rint(np.clip(y.detach().cpu().numpy(), 0, 1) * LEVELS).astype(np.uint16)
    tiles, walls, inside = (tiled(each, window) for each in (levels, near, annotated))
    w_n, w_p = region_weights(tiles, walls, inside, corners=corners)
    w_n, w_p = (untiled(w, y.shape) for w in (w_n, w_p))
    w_n, w_p = w_n * near, w_p * far
    weights = (torch.from_numpy(w).to(y) for w in (w_n, w_p))
    leak, block = next(weights) * y.square(), beta * next(weights) * (1 - y).square()
    return (leak + block).flatten(1).sum(dim=1) / (len(tiles) // len(y))


def region_weights(
    levels: Shaped[np.ndarray, "n s s"],
    near: Bool[np.ndarray, "n s s"],
    inside: Bool[np.ndarray, "n s s"],
    *,
    corners: bool,
) -> tuple[Float[np.ndarray, "n s s"], Float[np.ndarray, "n s s"]]:
    """Return each pixel's share of the pairs from different regions and of those from one region.

    Args:
        levels: map in whole numbers up to `LEVELS`; taken as `LEVELS` away from the line when
            looking for leaks.
        near: the line; regions are what is left.
        inside: False where a window juts out of its image.
        corners: pixels that share a corner are neighbours.
    """
    regions = np.where(inside, _label(~near & inside, corners), -1)
    side = levels.shape[-1]
    margin = ((0, 0), (1, 1), (1, 1))
    padded = np.pad(levels.astype(np.int32), margin).reshape(len(levels), -1)
    around = np.pad(regions, margin, constant_values=-1).reshape(padded.shape)
    steps = np.array([1, side + 2, side + 3, side + 1][: 4 if corners else 2])
    shares = tile_shares(padded, around, steps, LEVELS)
    leaks, blocks = (s.reshape(-1, side + 2, side + 2)[:, 1:-1, 1:-1] for s in shares)
    return leaks, blocks


def tiled(values: Shaped[np.ndarray, "b h w"], side: int) -> Shaped[np.ndarray, "n s s"]:
    """Cut images into square windows, row by row; what is missing is zero."""
    b, h, w = values.shape
    rows, columns = -(-h // side), -(-w // side)
    padded = np.pad(values, ((0, 0), (0, rows * side - h), (0, columns * side - w)))
    cut = padded.reshape(b, rows, side, columns, side).swapaxes(2, 3)
    return np.ascontiguousarray(cut).reshape(-1, side, side)


def untiled(tiles: Shaped[np.ndarray, "n s s"], shape: tuple[int, ...]) -> np.ndarray:
    """Put windows together again."""
    b, h, w = shape
    side = tiles.shape[-1]
    rows, columns = -(-h // side), -(-w // side)
    whole = tiles.reshape(b, rows, columns, side, side).swapaxes(2, 3)
    return whole.reshape(b, rows * side, columns * side)[:, :h, :w]


def _label(mask: Bool[np.ndarray, "n s s"], corners: bool) -> Int32[np.ndarray, "n s s"]:
    """Number the components of every window, none twice."""
    flat = ndimage.generate_binary_structure(2, 2 if corners else 1)
    structure = np.zeros((3, 3, 3), dtype=bool)
    structure[1] = flat
    numbers = np.empty(mask.shape, dtype=np.int32)
    ndimage.label(mask, structure, output=numbers)
    return numbers


def _edges(shape: tuple[int, ...]) -> Int64[np.ndarray, "2 m"]:
    """Return the pairs of pixels that share a side, in every window."""
    ids = np.arange(int(np.prod(shape))).reshape(shape)
    sides = ((ids[:, :, :-1], ids[:, :, 1:]), (ids[:, :-1], ids[:, 1:]))
    return np.stack([np.concatenate([pair[k].ravel() for pair in sides]) for k in (0, 1)])


def _published_items(batch: Batch, window: int) -> Float[Tensor, " b"]:
    """Return the published sums; w_p is zero for a label of zeros and ones, so it is left out.

    The published loss is the sum over the batch, which is the mean of what each item gives here.
    """
    line = batch.labels.cpu().numpy() == 1
    y = torch.relu(batch.logits[:, 0])
    depth = [np.minimum(np.asarray(ndimage.distance_transform_edt(item)), CLIP) for item in line]
    w_n = torch.from_numpy(published_weights(y.detach().cpu().numpy(), line, window)).to(y)
    error = (y - torch.from_numpy(np.stack(depth)).to(y)).square()
    return len(y) * (1e-3 * error + w_n * y.square()).flatten(1).sum(dim=1)


def published_weights(
    y: Float[np.ndarray, "b h w"], line: Bool[np.ndarray, "b h w"], window: int
) -> Float[np.ndarray, "b h w"]:
    """Return w_n of the published code."""
    h, w = (n // window * window for n in y.shape[1:])
    weights = np.zeros_like(y)
    if not h or not w:
        return weights
    tiles, walls = tiled(y[:, :h, :w], window), tiled(~line[:, :h, :w], window)
    cross = np.zeros((3, 3, 3), dtype=bool)
    cross[1] = ndimage.generate_binary_structure(2, 1)
    wide = np.asarray(ndimage.binary_dilation(walls, cross, iterations=5), dtype=bool)
    regions = _label(~wide, corners=False).ravel()
    ends = _edges(tiles.shape)
    order = np.argsort(-tiles.ravel()[ends].sum(axis=0), kind="stable")
    pairs = leak_counts(order, ends, regions)
    of_tile = ends[0] // tiles[0].size
    share = pairs / np.maximum(np.bincount(of_tile, pairs, len(tiles)), 1)[of_tile]
    at_pixel = sum(np.bincount(end, share, regions.size) for end in ends)
    weights[:, :h, :w] = untiled(np.asarray(at_pixel).reshape(tiles.shape), (len(y), h, w))
    return weights


def _check_window(logits: Tensor, window: int, compat: bool) -> None:
    if logits.ndim != 4:
        raise InputError(
            "loss.needs_images",
            f"Scores of shape {tuple(logits.shape)} are not a batch of images.",
            "This loss has no version for volumes.",
        )
    if compat and logits.shape[1] != 1:
        raise InputError(
            "loss.needs_one_channel",
            f"The published loss judges one channel, not {logits.shape[1]}.",
            "Use a network with one output channel or leave `compat` off.",
        )
    if window < 2:
        raise ConfigError("loss.bad_window", f"Windows of side {window}.", "Give 2 or more.")
