"""RandHue (Valverde et al. 2025): every pixel gets the same, random hue; what is left of colour is
how light and how saturated a pixel is.  A network trained so cannot lean on brick-red.

With lo and R the smallest value and the range of the whole picture, x = (picture - lo) / R:

    (H, S, V) = HSV(x);  H := r1;  S := clip(S + shift2, 0, 1);  V := clip(V + shift3, 0, 1)

and back to R * RGB + lo.  r1, r2, r3 are uniform in [0, 1).  As published shift = r / 2, so that
saturation and value can only grow; here shift = (r - 1/2) / 2, which goes both ways.  A picture of
one value has no hue and stays as it is (published: NaN).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_TINY = 1e-10


def random_hue(
    image: Float[Tensor, "3 h w"],
    generator: torch.Generator | None = None,
    *,
    compat: bool = False,
) -> Float[Tensor, "3 h w"]:
    """Return the picture in a random hue.

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
    """Return the picture with one hue and moved saturation and value.

    Args:
        image: RGB on any scale.
        hue: in turns, [0, 1]; 0 is red, 1/3 green.
        saturation_shift: added to the saturation, which then is kept in [0, 1].
        value_shift: the same for the value.
        compat: give NaN for a picture of one value, as published.
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
