"""Loss gradient maps: what a loss wants changed in a given prediction, pixel by pixel.

The prediction enters as logits (log(1 - p), log p), whose softmax is p.  The map at a pixel
is minus the gradient with respect to the mortar logit: positive where the loss wants more mortar,
negative where it wants less.  Losses that are made of a pixel-wise part and a topological part show
the topological part alone where the catalogue names the pixel-wise part (`Loss.auxiliary`), since
the other would cover it.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage

from geo3d.errors import ConfigError, NumericalError, ShapeError
from geo3d.topology.losses.catalogue import LOSSES, Loss

FLOOR = 1e-4
"""Probabilities are kept this far from 0 and 1, where logits end."""
ADD_COLOR = np.array([0, 114, 255], np.float32)
REMOVE_COLOR = np.array([230, 60, 0], np.float32)
SMALLEST = 64
"""Pixels of a component or a hole that is meant."""
FULL_STRENGTH = 98
"""Percentile of the nonzero entries that is shown at full strength."""
DOTS = 250
"""A single pixel is drawn with this part of the image's side as its radius."""


def losses_with_maps() -> tuple[str, ...]:
    """Return the losses that judge two classes in an image (not those on a distance channel)."""
    return tuple(n for n, x in LOSSES.items() if 2 in x.dimensions)


def check_loss(loss: str) -> None:
    """Refuse a loss that cannot be asked (code "loss_maps.unknown_loss")."""
    if loss not in losses_with_maps():
        raise ConfigError(
            "loss_maps.unknown_loss",
            f"No loss gradient map for the loss {loss!r}.",
            f"Known: {', '.join(losses_with_maps())}.",
        )


def loss_gradient_map(
    probability: Float[np.ndarray, "h w"], label: Bool[np.ndarray, "y x"], loss: str
) -> Float32[np.ndarray, "h w"]:
    """Return how much more mortar the loss wants at each pixel.

    Args:
        probability: of mortar, in [0, 1].
        label: what the prediction is compared with.
        loss: a key of `losses_with_maps`.

    Raises:
        ConfigError: "loss_maps.unknown_loss".
        ShapeError: "loss_maps.unequal_sizes".
        NumericalError: "loss_maps.not_finite".
    """
    check_loss(loss)
    if probability.shape != label.shape:
        raise ShapeError(
            "loss_maps.unequal_sizes",
            f"The prediction is {probability.shape} and the label {label.shape}.",
            "Compare a prediction with a label of the same image.",
        )
    row = LOSSES[loss]
    found = _gradient(row, probability, label, whole=True)
    if row.auxiliary is not None:
        found = found - _gradient(row, probability, label, whole=False)
    if not np.isfinite(found).all():
        raise NumericalError("loss_maps.not_finite", f"{loss} has no finite gradient here.", "")
    return -found


def draw_loss_map(
    image: UInt8[np.ndarray, "h w 3"], loss_map: Float32[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the greyed image with blue where mortar is missing and red where it is too much."""
    grey = 0.5 * image.mean(axis=2, keepdims=True, dtype=np.float32) + 110
    size = np.abs(loss_map)
    top = np.percentile(size[size > 0], FULL_STRENGTH) if (size > 0).any() else 1.0
    # Single pixels (critical points) would not be seen: each is spread over its neighbours.
    spread = _disc(max(1, round(max(loss_map.shape) / DOTS)))
    grown = [
        ndimage.grey_dilation(np.maximum(sign * loss_map, 0), footprint=spread) for sign in (1, -1)
    ]
    strength = np.clip(np.maximum(*grown) / max(top, 1e-30), 0, 1)[..., None]
    color = np.where((grown[0] >= grown[1])[..., None], ADD_COLOR, REMOVE_COLOR)
    return np.rint((1 - strength) * grey + strength * color).astype(np.uint8)


def cleaned_label(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return a prediction as a label of what was probably meant.

    Components and then holes of fewer than `SMALLEST` pixels are removed, as
    `geo3d.segmentation.outputs` counts them.
    """
    kept = _without_small(mask, np.ones((3, 3)), SMALLEST)
    outside = np.pad(~kept, 1, constant_values=True)
    return ~_without_small(outside, None, SMALLEST)[1:-1, 1:-1]


def _disc(radius: int) -> Bool[np.ndarray, "n n"]:
    steps = np.arange(-radius, radius + 1)
    return np.hypot(steps[:, None], steps) <= radius


def _gradient(
    row: Loss, probability: Float[np.ndarray, "h w"], label: Bool[np.ndarray, "h w"], *, whole: bool
) -> Float32[np.ndarray, "h w"]:
    function = row.function if whole or row.auxiliary is None else row.auxiliary
    mortar = torch.from_numpy(probability.astype(np.float32)).clamp(FLOOR, 1 - FLOOR)
    logits = torch.stack([torch.log1p(-mortar), mortar.log()])[None].requires_grad_()
    target = torch.from_numpy(label.astype(np.int64))[None]
    with torch.enable_grad():
        value = function(logits, target)
    if not value.requires_grad:
        return np.zeros(label.shape, np.float32)
    (gradient,) = torch.autograd.grad(value, logits)
    return gradient[0, 1].numpy()


def _without_small(
    mask: Bool[np.ndarray, "h w"], structure: np.ndarray | None, smallest: int
) -> Bool[np.ndarray, "h w"]:
    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, structure, output=labels)
    sizes = np.bincount(labels.ravel())
    return mask & (sizes >= smallest)[labels]
