"""Images of street layouts in any light and weather, drawn by casting rays: a teacher that is
exact, the same from every view, and the data of learned ones.

    painter = StreetPainter(layout, seed=0)
    view = painter.view(street_camera(layout.trajectory[3], 48))
    painter.paint(view, ("night",))            # (48, 48, 3) uint8

Lambert sun with shadow rays, sky light, shade under vehicles, clouds, mirrored sky on glass and
wet ground, street lamps, fog; every colour is a function of place, primitive and seed, so that
images of one layout agree.  What stands inside the primitives: `geo3d.synth.streets.bodies`; what
it is painted with: `materials`.  Pixels are means of ``supersampling``^2 rays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial import KDTree

from geo3d.layout.layout import Layout
from geo3d.render.cameras import Camera
from geo3d.synth.streets.materials import Materials
from geo3d.synth.streets.patterns import hashed, value_noise
from geo3d.synth.streets.spots import Paint
from geo3d.synth.streets.styles import Look, look_of
from geo3d.synth.streets.surfels import StreetRays, Surfels

SUPERSAMPLING = 2
_LAMP_REACH = 26.0
"""Metres from a street lamp at which its light ends."""
_LAMP_EVERY, _LAMP_HEIGHT = 18.0, 5.5
"""Metres between the lamps of a street whose layout has none, and their height over the camera."""
_SHADE_REACH = 1.2
"""Metres around vehicles within which the ground sees less of the sky."""
_WARM = np.array([1.0, 0.68, 0.36])


@dataclass(frozen=True, eq=False)
class StreetView:
    """A camera with what its rays hit."""

    camera: Camera
    surfels: Surfels
    supersampling: int


class StreetPainter:
    """Draws one layout.

    Args:
        layout: with one primitive at least.
        seed: chooses materials, sun and clouds.
        lamps: where light comes from at night; None takes those of the layout.
    """

    def __init__(
        self, layout: Layout, seed: int = 0, lamps: Float[np.ndarray, "n 3"] | None = None
    ) -> None:
        self.rays = StreetRays(layout)
        self.materials = Materials(layout, self.rays.frames, seed)
        self.seed = seed
        self._lamps = lamps_of(layout) if lamps is None else lamps
        self._vehicles = np.array([p.class_id == 0 for p in layout.primitives], bool)

    def view(self, camera: Camera, supersampling: int = SUPERSAMPLING) -> StreetView:
        """Cast the rays of ``camera`` once; the view can be drawn in every style."""
        surfels = self.rays.surfels(camera.finer(supersampling))
        return StreetView(camera, surfels, supersampling)

    def paint(self, view: StreetView, style: tuple[str, ...]) -> UInt8[np.ndarray, "h w 3"]:
        """Return the image of a view.

        Raises:
            ConfigError: ``street_images.unknown_style``.
        """
        return (255 * tone(self.radiance(view, style)) + 0.5).astype(np.uint8)

    def radiance(self, view: StreetView, style: tuple[str, ...]) -> Float[np.ndarray, "h w 3"]:
        """Return the light of a view before `tone`.

        Raises:
            ConfigError: ``street_images.unknown_style``.
        """
        look, surfels = look_of(style), view.surfels
        sun = self.sun_direction(look)
        light = sky(surfels.directions, sun, look, self.seed)
        if len(surfels.rows):
            material = self.materials.at(surfels, look)
            seen = self._shade(view, material, look, sun)
            haze = np.exp(-surfels.distance * look.fog)[:, None]
            veil = _veil(look)
            light[surfels.rows] = seen * haze + veil * (1 - haze)
        return _mean_of_blocks(light, view) * look.exposure

    def sun_direction(self, look: Look) -> Float[np.ndarray, " 3"]:
        """Return the unit direction towards the sun: the seed chooses within the look's range."""
        low, high = look.sun_elevation
        elevation = np.radians(low + (high - low) * float(hashed(self.seed, 1, 71)))
        azimuth = 2 * np.pi * float(hashed(self.seed, 2, 72))
        flat = np.cos(elevation)
        return np.array([flat * np.sin(azimuth), -np.sin(elevation), flat * np.cos(azimuth)])

    def _shade(
        self, view: StreetView, material: Paint, look: Look, sun: np.ndarray
    ) -> Float[np.ndarray, "p 3"]:
        surfels = view.surfels
        up = -surfels.normals[:, 1]
        zenith, horizon = _sky_colors(look)
        # half of the sky above flat ground, a quarter and some bounce in front of a wall
        open_sky = (0.5 + 0.5 * up)[:, None]
        around = open_sky * (0.6 * zenith + 0.4 * horizon) + (1 - open_sky) * 0.35 * horizon
        light = look.ambient * around * self._open_ground(surfels)[:, None]
        if max(look.sun) > 0:
            facing = np.maximum(surfels.normals @ sun, 0.0) * self.rays.lit(surfels, sun)
            light = light + facing[:, None] * np.array(look.sun)
        if look.lamps > 0:
            light = light + look.lamps * self._lamp_light(surfels)
        seen = material.albedo * light
        if material.mirror.any():
            way = surfels.directions[surfels.rows]
            cosine = np.einsum("pi,pi->p", way, surfels.normals)
            mirrored = way - 2 * cosine[:, None] * surfels.normals
            share = (material.mirror * (0.35 + 0.65 * (1 - np.abs(cosine)) ** 3))[:, None]
            seen = seen + share * (sky(mirrored, sun, look, self.seed, 0.0) - seen)
        return seen + material.glow

    def _open_ground(self, surfels: Surfels) -> Float[np.ndarray, " p"]:
        """Return the share of the sky that ground beside and under vehicles sees."""
        share = np.ones(len(surfels.rows))
        ground = np.flatnonzero(surfels.normals[:, 1] < -0.9)
        if not len(ground) or not self._vehicles.any():
            return share
        points = surfels.points[ground]
        places = KDTree(points[:, [0, 2]])
        things = self.materials.things
        for i in np.flatnonzero(self._vehicles):
            size = things.sizes[i]
            middle = self.rays.frames[i].to_world[[0, 2], 3]
            near = np.hypot(size[0], size[2]) / 2 + _SHADE_REACH
            here = np.array(places.query_ball_point(middle, near), np.int64)
            if not len(here):
                continue
            to_frame = things.to_frame[i]
            local = points[here] @ to_frame[:3, :3].T + to_frame[:3, 3]
            out = np.maximum(np.abs(local[:, [0, 2]]) - 0.47, 0) * size[[0, 2]]
            dark = np.exp(-np.hypot(*out.T) / 0.3) * (np.abs(local[:, 1] * size[1]) < 0.4)
            share[ground[here]] *= 1 - 0.75 * dark
        return share

    def _lamp_light(self, surfels: Surfels) -> Float[np.ndarray, "p 3"]:
        """Return the light of the street lamps; each reaches a little way only."""
        total = np.zeros(len(surfels.rows))
        if not len(self._lamps) or not len(total):
            return total[:, None] * _WARM
        places = KDTree(surfels.points)
        for lamp in self._lamps:
            here = np.array(places.query_ball_point(lamp, _LAMP_REACH), np.int64)
            if len(here):
                total[here] += 22.0 * _point_light(
                    surfels.points[here], surfels.normals[here], lamp
                )
        return total[:, None] * _WARM


def lamps_of(layout: Layout) -> Float[np.ndarray, "n 3"]:
    """Return where light comes from at night: the street lamps; without any, places above the
    drive."""
    bounds = [p.bounds() for p in layout.primitives if p.name == "lamp"]
    heads = [[b[:, 0].mean(), b[0, 1] + 0.4, b[:, 2].mean()] for b in bounds]
    if heads:
        return np.array(heads)
    places = layout.trajectory[:, :3, 3]
    along = np.concatenate([[0], np.linalg.norm(np.diff(places, axis=0), axis=1).cumsum()])
    stops = np.arange(0.0, along[-1] + 1e-9, _LAMP_EVERY)
    above = np.stack([np.interp(stops, along, axis) for axis in places.T], axis=1)
    return above - (0.0, _LAMP_HEIGHT, 0.0)


def sky(
    directions: Float[np.ndarray, "q 3"],
    sun: Float[np.ndarray, " 3"],
    look: Look,
    seed: int,
    clouds: float = 1.0,
) -> Float[np.ndarray, "q 3"]:
    """Return the radiance of the sky in unit directions; ``clouds`` scales the covered share."""
    zenith, horizon = _sky_colors(look)
    up = np.clip(-directions[:, 1], 0.0, 1.0)
    part = (up**0.5)[:, None]
    light = horizon + part * (zenith - horizon)
    if clouds > 0 and look.clouds > 0:
        # a flat layer of cloud, which shrinks towards the horizon
        plane = directions[:, [0, 2]] / (up + 0.12)[:, None]
        noise = 0.65 * value_noise(plane, 1.1, seed + 501) + 0.35 * value_noise(plane, 0.4, seed)
        cover = np.clip((noise - 1.0 + look.clouds) / 0.25, 0, 1) * np.clip(up / 0.06, 0, 1)
        light = light + (0.8 * clouds * cover)[:, None] * (np.array(look.cloud) - light)
    if max(look.sun) > 0:
        near = np.clip(directions @ sun, 0, 1)
        light = light + (0.35 * near**32 + 3.0 * (near > 0.9985))[:, None] * np.array(look.sun)
    thick = 1 - np.exp(-200.0 * max(look.fog - 0.004, 0.0))
    return light + (thick * (1 - 0.5 * up))[:, None] * (_veil(look) - light)


def tone(linear: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Return display values in [0, 1]: highlights roll off, then gamma 2.2."""
    light = np.maximum(linear, 0.0)
    return np.clip(light * (1 + light / 4.0) / (1 + 0.8 * light), 0, 1) ** (1 / 2.2)


def _sky_colors(look: Look) -> tuple[np.ndarray, np.ndarray]:
    return np.array(look.zenith), np.array(look.horizon)


def _veil(look: Look) -> np.ndarray:
    """Return the colour of fog: that of the horizon, warmer where lamps burn."""
    return np.array(look.horizon) + 0.02 * look.lamps * _WARM * (look.fog > 0.02)


def _point_light(points: np.ndarray, normals: np.ndarray, place: np.ndarray) -> np.ndarray:
    way = place - points
    square = np.einsum("pi,pi->p", way, way)
    cosine = np.einsum("pi,pi->p", way, normals) / np.sqrt(square + 1.0)
    end = np.clip(1 - square / _LAMP_REACH**2, 0, 1)
    return np.maximum(cosine, 0.0) / (square + 1.0) * end


def _mean_of_blocks(light: np.ndarray, view: StreetView) -> np.ndarray:
    s, camera = view.supersampling, view.camera
    blocks = light.reshape(camera.height, s, camera.width, s, 3)
    # highlights are cut before the mean, or one bright ray would whiten the pixel
    return np.minimum(blocks, 2.0).mean(axis=(1, 3))
