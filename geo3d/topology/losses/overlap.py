"""Losses of overlap: cross-entropy, Dice, their sum, the region-wise loss, and SCNP around them.

Notation: z scores, p = softmax(z), t one map per class (or soft target), N pixels.

* `cross_entropy`: -sum_c w_c mean over b, x of t_c log p_c.
* `dice_term`: -mean over b, c of w_c (2 sum p t + e) / (sum t + sum p + e), e = 1e-5, in [-1, 0].
* `region_wise_loss`: mean over b, c, x of p R with R from `geo3d.topology.grids`.

None of them knows about topology: they are the base that topology terms are added to.
Sources: Milletari et al., V-Net (2016); Valverde & Tohka, Region-wise loss for biomedical image
segmentation (2023).

Same-class neighbour penalisation (`scnp_loss`): train each pixel on the worst score among its
neighbours.

Notation: z scores of one class, t its target, W the k^d window around a pixel.

    z'(x) = min of z over the pixels of W(x) with t = 1, if t(x) = 1
            max of z over the pixels of W(x) with t = 0, if t(x) = 0

Any loss of z' then pays for a pixel as much as for its worst neighbour of the same class, so gaps
and false bridges weigh most.  Source: Valverde et al., Same-Class Neighbor Penalization (2026).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d
from typing_extensions import Unpack

from geo3d.errors import ConfigError
from geo3d.topology.grids import region_wise_map
from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.inputs import is_soft
from geo3d.topology.losses.memory import in_threads, once_per_content
from geo3d.topology.losses.options import Options, as_batch, eager, judge, published

TINY = 1e-15
"""Added to probabilities before the logarithm in the published cross-entropy."""


@eager
def cross_entropy(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    compat: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return the cross-entropy per annotated pixel; weights multiply per channel.

    The default takes the logarithm of the softmax in one step, so a very wrong pixel keeps its
    gradient; ``compat`` adds 1e-15 to the probability and takes its logarithm.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`.
    """
    return judge(partial(cross_entropy_items, compat=compat), logits, target, options)


def cross_entropy_items(batch: Batch, *, compat: bool = False) -> Float[Tensor, " b"]:
    """Return the cross-entropy of each item: summed over classes, averaged over regions."""
    if batch.regions:
        yes, no = batch.log_p
        entropy = batch.truth * yes + batch.within((1 - batch.truth) * no)
        return -batch.channel_mean(batch.pixel_mean(entropy), range(entropy.shape[1]))
    log_p = torch.log(batch.p + TINY) if compat else torch.log_softmax(batch.logits, dim=1)
    entropy = batch.pixel_mean(batch.truth * log_p)
    return -(entropy if batch.weight is None else entropy * batch.weight).sum(dim=1)


@eager
def dice_term(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    smooth: float = 1e-5,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return minus the mean soft Dice over items and all classes, the background too; -1 is best.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`.
    """
    return judge(partial(dice_items, smooth=smooth), logits, target, options)


def dice_items(batch: Batch, *, smooth: float = 1e-5) -> Float[Tensor, " b"]:
    """Return minus the mean soft Dice of each item."""
    first = batch.overlapped.start
    p, truth = batch.p[:, first:], batch.truth[:, first:]
    shared = (p * truth).sum(dim=batch.space)
    total = p.sum(dim=batch.space) + truth.sum(dim=batch.space)
    return -batch.channel_mean((2 * shared + smooth) / (total + smooth), batch.overlapped)


@eager
def ce_dice_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    lambda_ce: float = 1.0,
    lambda_dice: float = 1.0,
    compat: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return lambda_ce x cross-entropy + lambda_dice x Dice term; the best value is -lambda_dice.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`.
    """
    items = partial(ce_dice_items, lambda_ce=lambda_ce, lambda_dice=lambda_dice, compat=compat)
    return judge(items, logits, target, options)


def ce_dice_items(
    batch: Batch, *, lambda_ce: float = 1.0, lambda_dice: float = 1.0, compat: bool = False
) -> Float[Tensor, " b"]:
    """Return the weighted sum of each item."""
    total = batch.logits.new_zeros(len(batch.logits))
    if lambda_ce:
        total = total + lambda_ce * cross_entropy_items(batch, compat=compat)
    return total + lambda_dice * dice_items(batch) if lambda_dice else total


@eager
def region_wise_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    compat: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return the mean of probability times region-wise map: far from the edge weighs more.

    A class that is absent has the map +1, one that fills its image -1.  A soft target t mixes the
    maps of its most likely labels with itself: R_c = 1 - t_c (1 - R_c), so that an unsure pixel
    pulls less.  Distances follow `spacing`; what is not annotated counts as no edge.

    ``compat`` for soft targets is the published code, whose branch is the wrong way round: the map
    is the same for every class and the gradient is zero.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`.
    """
    if compat:
        published(options)
    return judge(partial(_region_wise_items, compat=compat), logits, target, options)


def _region_wise_items(batch: Batch, *, compat: bool) -> Float[Tensor, " b"]:
    first = batch.overlapped.start
    weighed = batch.p[:, first:] * region_maps(batch, compat=compat)
    return batch.channel_mean(batch.pixel_mean(weighed), batch.overlapped)


def region_maps(batch: Batch, *, compat: bool = False) -> Float[Tensor, "b c *space"]:
    """Return the region-wise maps of every item and class, without gradient."""
    soft = is_soft(batch.target)
    if soft and compat:
        masks = (batch.target != 0).cpu().numpy()
    else:
        masks = batch.masks_of(batch.overlapped)
    # Beyond the annotated part nothing is known, so a class may go on there.
    outside = None if batch.outside is None else batch.outside.tobytes()
    region = torch.from_numpy(_maps(masks, batch.spacing, outside)).to(batch.p)
    if not soft or compat:
        return region
    return 1 - batch.truth[:, batch.overlapped.start :] * (1 - region)


@once_per_content
def _maps(
    masks: Bool[np.ndarray, "b c *space"], spacing: tuple[float, ...], outside: bytes | None
) -> Float[np.ndarray, "b c *space"]:
    hidden: list[np.ndarray | None] = [None] * len(masks)
    if outside is not None:
        hidden = list(np.frombuffer(outside, bool).reshape(len(masks), *masks.shape[2:]))
    todo = [
        (mask, spacing, hide) for item, hide in zip(masks, hidden, strict=True) for mask in item
    ]
    maps = in_threads(lambda each: region_wise_map(*each), todo)
    return np.stack(maps).reshape(masks.shape)


@eager
def worst_neighbour_logits(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    size: int = 3,
    **options: Unpack[Options],
) -> Float[Tensor, "b c *space"]:
    """Return for each pixel and class the worst score in a window of odd ``size``.

    The gradient goes to the pixel that was worst.  A soft target counts as its likeliest labels.
    With `spacing` the window is as long along each axis, in units of the smallest pixel; pixels
    that are not annotated are nobody's neighbours and keep their scores.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.bad_window".
    """
    if size < 1 or size % 2 == 0:
        raise ConfigError(
            "loss.bad_window", f"A window of {size} pixels has no middle.", "Give 1, 3, 5 ..."
        )
    return _worst(logits, target, size, options)


@eager
def _worst(logits: Tensor, target: Tensor, size: int, options: Options) -> Tensor:
    batch = as_batch(logits, target, **options)
    z = batch.logits
    channels = range(z.shape[1])
    inside = torch.from_numpy(batch.masks_of(channels)).to(z.device)
    outside = ~inside if batch.inside is None else ~inside & batch.inside[:, None]
    window = tuple(2 * int((size // 2) / step) + 1 for step in batch.spacing)
    # One pooling serves both: scores of the other kind of pixel never win the maximum.
    lowest = -_pool(torch.where(inside, -z, -torch.inf), window)
    highest = _pool(torch.where(outside, z, -torch.inf), window)
    worst = torch.where(inside, lowest, highest)
    return worst if batch.inside is None else torch.where(batch.inside[:, None], worst, z)


@eager
def scnp_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    size: int = 3,
    loss: Callable[..., Tensor] = ce_dice_loss,
    **settings: Any,
) -> Float[Tensor, "*b"]:
    """Return a loss of the worst neighbours' scores; ``settings`` go to that loss.

    Options that say how to read the input (`Options`) go to both.

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.bad_window".
    """
    read: Options = {k: v for k, v in settings.items() if k in Options.__annotations__}  # pyright: ignore
    worst = worst_neighbour_logits(logits, target, size, **read)
    if not (read.get("sigmoid") or read.get("softmax", True)):
        # Given probabilities have become scores.
        settings |= {"sigmoid": logits.shape[1] == 1, "softmax": logits.shape[1] > 1}
    return loss(worst, target, **settings)


def _pool(values: Tensor, window: tuple[int, ...]) -> Tensor:
    pool = max_pool2d if values.ndim == 4 else max_pool3d
    return pool(values, window, stride=1, padding=tuple(n // 2 for n in window))
