"""The ten random changes of the published training, each with random numbers of its own.

All of them are MONAI's; this module says which, in which order and with which parameters, and how
they are seeded.  The published code seeds every transform with the same number, so that without
worker processes all ten draw alike and fire together; here each application of each transform is
seeded from the item's generator.

Geometry acts on image and target alike (bilinear and nearest), so a target may be a label map or
a soft one.

RandHue (Valverde et al. 2025): every pixel gets the same, random hue; what is left of colour is
how light and how saturated a pixel is.  A network trained so cannot lean on brick-red.

With lo and R the smallest value and the range of the whole image, x = (image - lo) / R:

    (H, S, V) = HSV(x);  H := r1;  S := clip(S + shift2, 0, 1);  V := clip(V + shift3, 0, 1)

and back to R * RGB + lo.  r1, r2, r3 are uniform in [0, 1).  As published shift = r / 2, so that
saturation and value can only grow; here shift = (r - 1/2) / 2, which goes both ways.  An image of
one value has no hue and stays as it is (published: NaN).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.errors import ConfigError

NAMES = ("published", "flips", "none")
"""Known sets of changes."""


def augment(
    image: Float[Tensor, " c *space"],
    target: Float[Tensor, " k *space"],
    generator: torch.Generator,
    name: str = "published",
) -> tuple[Float[Tensor, " c *space"], Float[Tensor, " k *space"]]:
    """Change a normalised image and its target at random.

    Args:
        image: normalised image.
        target: labels as numbers, or probabilities.
        generator: everything that is drawn follows from it.
        name: one of `NAMES`.

    Raises:
        ConfigError: ``augment.unknown``.
    """
    if name not in NAMES:
        raise ConfigError(
            "augment.unknown", f"There is no augmentation {name!r}.", f"Known: {', '.join(NAMES)}."
        )
    data: dict[str, Any] = {"image": image, "target": target}
    transforms = _transforms(name, image.ndim - 1)
    seeds = torch.randint(2**31, (len(transforms),), generator=generator).tolist()
    for transform, seed in zip(transforms, seeds, strict=True):
        transform.set_random_state(seed=seed)
        data = transform(data)
    return _plain(data["image"]), _plain(data["target"])


def published_transforms(dimensions: int = 2) -> tuple[Any, ...]:
    """Return the ten transforms of the published training, for data with "image" and "target".

    Those of volumes turn about all three axes.
    """
    from monai import transforms as t

    both, image = ("image", "target"), "image"
    contrast = {"gamma": (0.7, 1.5), "retain_stats": True}
    linear = "bilinear" if dimensions == 2 else "trilinear"
    turns: dict[str, Any] = {
        f"range_{axis}": math.pi for axis in "xyz"[: 1 if dimensions == 2 else 3]
    }
    return (
        t.RandRotated(both, prob=0.2, **turns, mode=("bilinear", "nearest")),
        t.RandZoomd(both, prob=0.2, min_zoom=0.7, max_zoom=1.4, mode=(linear, "nearest-exact")),
        t.RandGaussianNoised(image, prob=0.1, mean=0.0, std=0.1),
        t.RandGaussianSmoothd(image, prob=0.2, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0)),
        t.RandScaleIntensityd(image, factors=0.25, prob=0.15),
        t.RandScaleIntensityFixedMeand(image, factors=0.25, prob=0.15, preserve_range=True),
        t.RandSimulateLowResolutiond(
            image, prob=0.25, downsample_mode=linear, upsample_mode="nearest"
        ),
        t.RandAdjustContrastd(image, prob=0.1, invert_image=True, **contrast),
        t.RandAdjustContrastd(image, prob=0.1, invert_image=False, **contrast),
        t.RandAxisFlipd(both, prob=0.5),
    )


@lru_cache(maxsize=2 * len(NAMES))
def _transforms(name: str, dimensions: int) -> Sequence[Any]:
    if name == "none":
        return ()
    published = published_transforms(dimensions)
    return published if name == "published" else published[-1:]


def _plain(values: Tensor) -> Tensor:
    """Return MONAI's tensor with metadata as a plain one."""
    return values.as_subclass(Tensor).float().contiguous()


_TINY = 1e-10


def random_hue(
    image: Float[Tensor, "3 h w"],
    generator: torch.Generator | None = None,
    *,
    compat: bool = False,
) -> Float[Tensor, "3 h w"]:
    """Return the image in a random hue.

    Args:
        image: RGB on any scale, normalised or not.
        generator: source of the three numbers; None means torch's global one, as published.
        compat: move saturation and value as published.
    """
    draws = torch.stack([torch.rand((), generator=generator) for _ in range(3)]).tolist()
    hue, *shifts = draws
    saturation, value = (r / 2 if compat else (r - 0.5) / 2 for r in shifts)
    return set_hue(image, hue, saturation, value, compat=compat)


def set_hue(
    image: Float[Tensor, "3 h w"],
    hue: float,
    saturation_shift: float = 0.0,
    value_shift: float = 0.0,
    *,
    compat: bool = False,
) -> Float[Tensor, "3 h w"]:
    """Return the image with one hue and moved saturation and value.

    Args:
        image: RGB on any scale.
        hue: in turns, [0, 1]; 0 is red, 1/3 green.
        saturation_shift: added to the saturation, which then is kept in [0, 1].
        value_shift: the same for the value.
        compat: give NaN for an image of one value, as published.
    """
    low = image.min()
    scale = image.max() - low
    if scale == 0 and not compat:
        return image.clone()
    x = (image - low) / scale
    value = x.amax(dim=0)
    chroma = value - x.amin(dim=0)
    saturation = (chroma / (value + _TINY) + saturation_shift).clamp(0, 1)
    value = (value + value_shift).clamp(0, 1)
    return _to_rgb(hue, saturation, value) * scale + low


def _to_rgb(
    hue: float, saturation: Float[Tensor, "h w"], value: Float[Tensor, "h w"]
) -> Float[Tensor, "3 h w"]:
    sixth = (hue % 1.0) * 6
    chroma = saturation * value
    low = value - chroma
    middle = low + chroma * (1 - abs(sixth % 2 - 1))
    # Which of red, green, blue is the largest, the middle one, the smallest, in each sixth.
    order = ("vml", "mvl", "lvm", "lmv", "mlv", "vlm")[int(sixth)]
    parts = {"v": value, "m": middle, "l": low}
    return torch.stack([parts[letter] for letter in order])
