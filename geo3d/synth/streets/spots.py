"""Surfels of one class, with everything that their pattern needs, and the colours it gives."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from geo3d.synth.streets.patterns import fade, hashed, value_noise
from geo3d.synth.streets.surfels import Surfels
from geo3d.synth.streets.wishes import Wish


class Paint(NamedTuple):
    """What light meets: linear reflectance, share mirrored, and light given off."""

    albedo: Float[np.ndarray, "p 3"]
    mirror: Float[np.ndarray, " p"]
    glow: Float[np.ndarray, "p 3"]


@dataclass(frozen=True, eq=False)
class Things:
    """What is known of every primitive, n of them."""

    keys: Int[np.ndarray, " n"]
    """Numbers from which all that is random about them is drawn."""
    to_frame: Float[np.ndarray, "n 4 4"]
    sizes: Float[np.ndarray, "n 3"]
    eaves: Float[np.ndarray, " n"]
    """Height of their walls, metres."""
    names: tuple[str, ...]
    wishes: tuple[Wish, ...]
    rails: tuple[tuple[np.ndarray, np.ndarray] | None, ...]
    """The two rails of a slab in the plan, (m, 2) each."""
    seed: int


@dataclass(frozen=True, eq=False)
class Spot:
    """Surfels of one class."""

    points: Float[np.ndarray, "p 3"]
    normals: Float[np.ndarray, "p 3"]
    instance: Int[np.ndarray, " p"]
    part: Int[np.ndarray, " p"]
    footprint: Float[np.ndarray, " p"]
    pixel: Float[np.ndarray, " p"]
    """Metres covered by a pixel across the line of sight."""
    lateral: Float[np.ndarray, " p"]
    along: Float[np.ndarray, " p"]
    things: Things

    def select(self, index: np.ndarray) -> Spot:
        """Return some of the surfels."""
        return spot_of(self, index, self.things)

    @property
    def key(self) -> np.ndarray:
        """Return the number of each surfel's thing."""
        return self.things.keys[self.instance]

    @property
    def up(self) -> np.ndarray:
        """Return how much a surface faces upwards."""
        return -self.normals[:, 1]

    def local(self) -> tuple[Float[np.ndarray, "p 3"], Float[np.ndarray, "p 3"]]:
        """Return the places in the frames of the things, and the sizes of those."""
        to_frame = self.things.to_frame[self.instance]
        places = np.einsum("pij,pj->pi", to_frame[:, :3, :3], self.points) + to_frame[:, :3, 3]
        return places, self.things.sizes[self.instance]

    def facing(self) -> Float[np.ndarray, "p 3"]:
        """Return the normals along the frames' axes."""
        to_frame = self.things.to_frame[self.instance][:, :3, :3]
        axes = to_frame * self.things.sizes[self.instance][:, :, None]
        return np.einsum("pij,pj->pi", axes, self.normals)

    def draw(self, salt: int) -> Float[np.ndarray, " p"]:
        """Return a number in [0, 1) for each surfel's thing."""
        return hashed(self.things.seed, self.key, salt)

    def choice(self, colors: np.ndarray, salt: int) -> Float[np.ndarray, "p 3"]:
        """Return a colour of the list for every thing, a little lighter or darker, whatever is
        asked for: a red house need not have a red roof."""
        index = (self.draw(salt) * len(colors)).astype(int)
        return colors[index] * (0.85 + 0.3 * self.draw(salt + 1))[:, None]

    def pick(self, colors: np.ndarray, salt: int) -> Float[np.ndarray, "p 3"]:
        """Return a colour of the list for every thing, a little lighter or darker, or the one
        that is asked for."""
        chosen = self.choice(colors, salt)
        for i in np.unique(self.instance).tolist():
            wanted = self.things.wishes[i].color
            if wanted is not None:
                chosen[self.instance == i] = wanted
        return chosen

    def noise(self, cell: float, salt: int) -> Float[np.ndarray, " p"]:
        """Return noise in [-1, 1], 0 where it is finer than a pixel."""
        noise = value_noise(self.points, cell, self.things.seed * 31 + salt)
        return (2 * noise - 1) * fade(cell, self.footprint)


def dull(albedo: Float[np.ndarray, "p 3"]) -> Paint:
    """Return a surface that neither mirrors nor shines."""
    return Paint(albedo, np.zeros(len(albedo)), np.zeros_like(albedo))


def over(albedo: np.ndarray, share: Float[np.ndarray, " p"], color: object) -> np.ndarray:
    """Return ``albedo`` with a share of each pixel in another colour."""
    return albedo + share[:, None] * (np.asarray(color, np.float64) - albedo)


def spot_of(surfels: Surfels | Spot, index: np.ndarray, things: Things) -> Spot:
    """Return some of the surfels, which are the things' own."""
    names = [field.name for field in fields(Spot) if field.name != "things"]
    return Spot(**{name: getattr(surfels, name)[index] for name in names}, things=things)
