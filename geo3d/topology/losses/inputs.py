"""What every loss takes: raw scores and a target, checked and brought to one form.

Notation: b batch, c classes (0 is the background), space (h, w) or (d, h, w).

* `logits` (b, c, *space): any floating type.  Losses compute in float32 (float64 stays float64);
  the gradient comes back in the type of the input.
* `target`: whole-number labels (b, *space) or (b, 1, *space), or a soft target (b, c, *space) of
  floating numbers that sum to one over the classes.  The type tells them apart: integers and
  booleans are labels, floating numbers are soft unless their channel axis is 1.
* Regions (sigmoid): maps (b, c, *space) of zeros and ones, or of numbers between, of any type.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from geo3d.errors import InputError

SUM_TOLERANCE = 1e-2
"""How far the classes of a soft target may be from one in sum (half precision is coarse)."""


def check_scores(logits: Float[Tensor, "b c *space"], min_classes: int = 2) -> None:
    """Refuse scores that are no batch of images or volumes (code "loss.wrong_shape")."""
    shape = tuple(logits.shape)
    if logits.ndim not in (4, 5) or shape[1] < min_classes or 0 in shape:
        raise InputError(
            "loss.wrong_shape",
            f"Scores of shape {shape} are not a batch of images or volumes with classes.",
            f"Give (b, c, h, w) or (b, c, d, h, w) with c of at least {min_classes}; one channel "
            "alone needs sigmoid=True.",
        )


def check_target(
    shape: tuple[int, ...], target: Shaped[Tensor, "*any"], *, regions: bool = False
) -> None:
    """Refuse a target of another size, labels out of range, maps that are no probabilities.

    Raises:
        InputError: "loss.wrong_target"; "loss.not_finite" for NaN or infinity in maps.
    """
    if is_maps(target, shape, regions=regions):
        _check_maps(shape, target, regions)
    else:
        _check_labels(shape, target, max(shape[1], 2))


def is_maps(
    target: Shaped[Tensor, "*any"], shape: tuple[int, ...], *, regions: bool = False
) -> bool:
    """Say whether a target has a map per channel rather than labels."""
    if regions:
        return tuple(target.shape) == shape
    return is_soft(target) or (tuple(target.shape) == shape and shape[1] > 1)


def is_soft(target: Shaped[Tensor, "*any"]) -> bool:
    """Say whether a target holds probabilities rather than labels."""
    return target.is_floating_point() and target.ndim > 3 and target.shape[1] != 1


def working(values: Shaped[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return numbers in the type losses compute in: float64 stays, all else becomes float32."""
    return values if values.dtype == torch.float64 else values.float()


def probabilities(logits: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
    """Return the softmax over classes."""
    return torch.softmax(working(logits), dim=1)


def one_hot(
    target: Shaped[Tensor, "*any"], logits: Float[Tensor, "b c *space"]
) -> Float[Tensor, "b c *space"]:
    """Return the target as one map per class of the scores; a soft target passes through."""
    dtype = working(logits[:0]).dtype
    if target.shape == logits.shape:
        return target.to(dtype)
    labels = hard_labels(target)
    classes = torch.arange(logits.shape[1], device=labels.device)
    steps = (-1, *(1 for _ in range(logits.ndim - 2)))
    return (labels[:, None] == classes.view(steps)).to(dtype)


def hard_labels(target: Shaped[Tensor, "*any"]) -> Int64[Tensor, "b ..."]:
    """Return the label of each pixel; of a soft target the most likely, the first if they tie."""
    if is_soft(target):
        return target.argmax(dim=1)
    has_channel = target.ndim > 3 and target.shape[1] == 1
    return (target[:, 0] if has_channel else target).long()


def _check_maps(shape: tuple[int, ...], target: Tensor, regions: bool) -> None:
    if tuple(target.shape) != shape:
        raise _wrong_target(shape, target)
    low, high = check_finite(target, "soft target")
    is_sum = regions or (target.sum(dim=1, dtype=torch.float32) - 1).abs().max() <= SUM_TOLERANCE
    if low < -SUM_TOLERANCE or high > 1 + SUM_TOLERANCE or not is_sum:
        raise InputError(
            "loss.wrong_target",
            "The maps of a target are not probabilities"
            + ("." if regions else " that sum to one."),
            "Apply softmax first; give labels as integers; name what is not annotated by "
            "ignore_index.",
        )


def _check_labels(shape: tuple[int, ...], target: Tensor, n_classes: int) -> None:
    flat = (shape[0], *shape[2:])
    with_channel = (shape[0], 1, *shape[2:])
    given = tuple(target.shape)
    # Four axes, the second of them 1, is an image with its channel, never a volume.
    is_flat = given == flat and not (len(given) == 4 and given[1] == 1)
    if not (is_flat or given == with_channel) or (is_flat and target.is_floating_point()):
        raise _wrong_target(shape, target)
    if target.dtype == torch.bool:
        return
    low, high = torch.aminmax(target)
    # Written so that NaN is refused too.
    fits = bool(low >= 0) and bool(high < n_classes)
    if not fits or (target.is_floating_point() and not bool((target == target.round()).all())):
        raise InputError(
            "loss.wrong_target",
            f"Labels run from {low.item()} to {high.item()} or are not whole numbers.",
            f"Use 0 for the background and 1 to {n_classes - 1} for the classes; if {high.item()} "
            f"means not annotated, ignore_index={high.item()}.",
        )


def _wrong_target(shape: tuple[int, ...], target: Tensor) -> InputError:
    return InputError(
        "loss.wrong_target",
        f"A {target.dtype} target of shape {tuple(target.shape)} does not fit scores of {shape}.",
        "Give integer labels (b, *space) or (b, 1, *space), or floating (b, c, *space).",
    )


def check_finite(values: Shaped[Tensor, "*any"], name: str) -> tuple[float, float]:
    """Return the lowest and highest value; refuse NaN and infinity (code "loss.not_finite")."""
    shown = values.detach()
    bounds = torch.aminmax(shown.byte() if shown.dtype == torch.bool else shown)
    low, high = (float(bound) for bound in bounds)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(
            "loss.not_finite",
            f"The {name} hold NaN or infinite numbers.",
            "Lower the learning rate or look at what made them.",
        )
    return low, high
