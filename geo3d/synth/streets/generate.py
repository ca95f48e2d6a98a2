"""Streets made up by rule: straight, curved or with crossings, of any length, from a seed.

The street follows a path in blocks of `BLOCK` metres.  A block draws its random numbers from (seed,
number of the block) alone, so a longer street begins with the shorter one, and the cost grows with
the length only.  What stands along the path, and how often, resembles the published samples (real
residential streets of KITTI-360): road, parking bays and sidewalks; front gardens with walls,
fences and hedges; houses and garages; trees, lamps, poles and signs; cars, persons and bins.
Nothing of the samples themselves is used.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from geo3d.layout.layout import Layout, turn
from geo3d.synth.streets.block import Block, Section, furnish
from geo3d.synth.streets.path import BLOCK, CLEAR, Path, Start

CAMERA_HEIGHT = 1.55
"""Metres of the camera above the road, as in KITTI-360."""
STEP = 0.7
"""Metres between cameras."""


def generate_street(
    length: float,
    seed: int = 0,
    kind: str = "straight",
    *,
    hills: float = 0.0,
    start: Start | None = None,
    prefix: str = "",
    name: str = "",
    prompt: str = "a residential street",
) -> Layout:
    """Make a street with cameras on its right lane every 0.7 m.

    Args:
        length: metres of road; the cameras stop 10 m before its end.
        seed: which street of this kind.
        kind: of `STREET_KINDS`: "straight", "curved" or "crossing" (a side street every 80 m).
        hills: height of the hills in metres; 0 is flat.
        start: where the road begins; the origin, heading along z, if None.
        prefix: goes in front of all ids.
        name: of the layout; made of the settings if empty.

    Raises:
        ConfigError: ``street.unknown_kind``, ``street.bad_length``.
    """
    start = start or Start()
    path = Path(length, seed, kind, hills, start)
    section = street_section(seed)
    primitives = []
    for number in range(math.ceil(length / BLOCK - 1e-9)):
        random = np.random.default_rng([seed, number])
        end = min((number + 1) * BLOCK, length)
        block = Block(path, section, number, random, prefix, end=end)
        furnish(block)
        primitives += block.made
    name = name or f"{kind}-{length:g}m-{seed}"
    return Layout(name, tuple(primitives), _drive(path, section, start.first_camera), prompt)


def street_section(seed: int) -> Section:
    """Draw the cross-section of a street."""
    random = np.random.default_rng([seed, (1 << 20) + 1])
    bays = ((2.2, 2.2), (2.2, 0.0), (0.0, 2.2), (0.0, 0.0))
    return Section(
        road=float(random.uniform(3.0, 3.8)),
        parking=bays[int(random.choice(4, p=(0.5, 0.25, 0.2, 0.05)))],
        sidewalk=float(random.uniform(1.8, 2.6)),
        garden=float(random.uniform(2.5, 5.5)),
    )


def _drive(path: Path, section: Section, first: float) -> Float[np.ndarray, "n 4 4"]:
    """Return the cameras in the middle of the right lane, level, looking along the street."""
    clear = min(CLEAR, path.length / 4)
    stations = np.arange(min(first, clear), path.length - clear + 1e-9, STEP)
    poses = np.tile(np.eye(4), (len(stations), 1, 1))
    poses[:, :3, 3] = path.points(stations, section.road / 2, CAMERA_HEIGHT)
    poses[:, :3, :3] = [turn(path.heading(s)) for s in stations]
    return poses
