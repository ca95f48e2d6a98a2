"""Classes of street primitives: names, ids and the colours that the ControlNet reads.

Names follow KITTI-360.  Several names share an id: the id decides the colour, the name what a
primitive may do.  Source: Urban Architect (arXiv 2404.06780), the palette of its release.
"""

from __future__ import annotations

import numpy as np

_NAMES: dict[int, tuple[str, ...]] = {
    0: ("car", "truck", "bus", "van", "trailer", "caravan"),
    1: ("person", "rider"),
    2: ("bicycle", "motorcycle", "motorbike"),
    3: ("pole", "smallpole", "traffic light", "traffic sign", "lamp"),
    4: ("trash bin",),
    5: ("ground", "road"),
    6: ("sidewalk",),
    7: ("parking",),
    8: ("building", "garage", "fence", "gate", "wall"),
    10: ("vegetation",),
    11: ("terrain",),
    12: ("rail track",),
    13: (
        "box",
        "vending machine",
        "stop",
        "train",
        "guard rail",
        "bridge",
        "tunnel",
        "unknown construction",
        "unknown vehicle",
        "unknown object",
    ),
}

CLASSES: dict[str, int] = {name: number for number, names in _NAMES.items() for name in names}
"""Class name to class id; a name that is not here counts as `OTHER`."""

OTHER = 13
"""Id of everything unknown."""

PALETTE: np.ndarray = np.array(
    [
        (0, 0, 255),
        (255, 0, 0),
        (0, 0, 110),
        (153, 153, 153),
        (0, 128, 192),
        (128, 64, 128),
        (244, 35, 232),
        (250, 170, 160),
        (70, 70, 70),
        (190, 153, 153),
        (107, 142, 35),
        (152, 251, 152),
        (230, 150, 140),
        (255, 255, 255),
    ],
    np.uint8,
)
"""(14, 3) RGB by class id; a pixel that sees nothing is black."""

MOVABLE = frozenset({"car", "truck", "bus"})
"""Names with a field of their own in the scene: they can be moved without training again."""

SKIPPED = frozenset({"trailer", "caravan"})
"""Names that importers of published layouts leave out."""

GROUND = frozenset({"road", "ground", "sidewalk", "parking", "terrain", "rail track"})
"""Names of flat things that something can stand on."""


def class_id(name: str) -> int:
    """Return the id of a class name; `OTHER` for a name that is not known."""
    return CLASSES.get(name, OTHER)
