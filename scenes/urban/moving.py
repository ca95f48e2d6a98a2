"""A finished scene at a time: things on wheels move along given tracks.

A movable primitive has a field of its own, so it moves as it is; the street stays.  Tracks come
from a file of JSON, by the ids of the layout (`geo3d scene --edit RUN --list`):

    {"car-3": {"times": [0, 2, 4], "places": [[2, 10], [2, 22], [3, 30]]}}

Times in seconds, places (x, z) in metres of a thing's middle.  It goes straight between two places,
stands before the first time and after the last, and turns with its way, or by ``yaw_deg``, one
number per time.  It keeps its height.  Where it stood when the scene was built nobody has seen the
ground, and the shadow painted there stays.

Notation: t seconds, n times of a track.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from geo3d.errors import InputError
from geo3d.layout.layout import Layout, Primitive, turn
from geo3d.progress import ProgressCallback, ignore_progress, report
from scenes.urban.conditions import RayScene
from scenes.urban.scene import Rendering, Scene
from scenes.urban.views import View, look

_STANDS = 0.05
"""Metres per step of a track under which a thing keeps its direction."""
_LARGEST_FILE = 16 << 20


@dataclass(frozen=True, eq=False)
class Track:
    """The way of one thing."""

    times: Float[np.ndarray, " n"]
    """Seconds, rising."""
    places: Float[np.ndarray, "n 2"]
    """x and z of its middle."""
    yaw_deg: Float[np.ndarray, " n"] | None = None
    """Direction, as in layouts; None: the way's."""

    def place(self, time: float) -> Float[np.ndarray, " 2"]:
        """Return x and z."""
        return np.array([np.interp(time, self.times, axis) for axis in self.places.T])

    def way(self, time: float) -> Float[np.ndarray, " 2"] | None:
        """Return x and z of the step under way, or of the last one; None if it never moves."""
        steps = np.diff(self.places, axis=0)
        moving = np.flatnonzero(np.hypot(*steps.T) > _STANDS)
        if not len(moving):
            return None
        now = int(np.searchsorted(self.times, time, side="right")) - 1
        earlier = moving[moving <= now]
        return steps[earlier[-1] if len(earlier) else moving[0]]


def load_tracks(path: str | Path, layout: Layout) -> dict[str, Track]:
    """Read the tracks of a file.

    Raises:
        InputError: ``tracks.bad_file`` (no JSON of this form), ``tracks.not_movable``,
            ``layout.unknown_id``.
    """
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read(_LARGEST_FILE))
        tracks = {str(id): _track(given) for id, given in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            "tracks.bad_file",
            f"{path} holds no tracks ({error}).",
            'Write {"ID": {"times": [0, 2], "places": [[x, z], [x, z]]}}, times rising.',
        ) from error
    for id in tracks:
        primitive = layout.primitives[layout.index(id)]
        if not primitive.movable:
            raise InputError(
                "tracks.not_movable",
                f"{id} is a {primitive.name}: only vehicles and the like have fields of their own.",
                "List the ids: geo3d scene --edit RUN --list.",
            )
    return tracks


def _track(given: Mapping[str, Sequence[float]]) -> Track:
    if unknown := set(given) - {"times", "places", "yaw_deg"}:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}")
    times = np.array(given["times"], np.float64)
    places = np.array(given["places"], np.float64)
    yaw = np.array(given["yaw_deg"], np.float64) if "yaw_deg" in given else None
    if times.ndim != 1 or not len(times) or places.shape != (len(times), 2):
        raise ValueError("there must be one place (x, z) per time, and one time at least")
    if yaw is not None and yaw.shape != times.shape:
        raise ValueError("there must be one yaw_deg per time")
    parts = [times, places] if yaw is None else [times, places, yaw]
    if not all(np.isfinite(part).all() for part in parts) or (np.diff(times) <= 0).any():
        raise ValueError("numbers must be finite and times rise")
    return Track(times, places, yaw)


def layout_at(layout: Layout, tracks: Mapping[str, Track], time: float) -> Layout:
    """Return the layout at a time, in seconds."""
    moved = [_moved(p, tracks[p.id], time) if p.id in tracks else p for p in layout.primitives]
    return replace(layout, primitives=tuple(moved))


def _moved(primitive: Primitive, track: Track, time: float) -> Primitive:
    x, z = track.place(time)
    middle = primitive.bounds().mean(axis=0)
    rotation = turn(_turned_by(primitive, track, time))
    transform = np.array(primitive.transform, np.float64)
    transform[:3, :3] = rotation @ transform[:3, :3]
    place = np.array([x, middle[1], z])
    transform[:3, 3] = rotation @ (transform[:3, 3] - middle) + place
    return replace(primitive, transform=transform)


def _turned_by(primitive: Primitive, track: Track, time: float) -> float:
    """Return by how many radians a thing is turned against the layout, z towards x."""
    axes = primitive.transform[:3, :3]
    if track.yaw_deg is not None:
        yaw = np.interp(time, track.times, np.unwrap(np.radians(track.yaw_deg)))
        return float(yaw) - math.atan2(axes[0, 2], axes[2, 2])
    way, first = track.way(time), track.way(track.times[0])
    if way is None or first is None:
        return 0.0
    # things on wheels go along their longer side, forwards or backwards
    lengths = np.linalg.norm(axes, axis=0) * np.ptp(primitive.vertices, axis=0)
    ahead = axes[:, 2 if lengths[2] >= lengths[0] else 0][[0, 2]]
    ahead = ahead if ahead @ first >= 0 else -ahead
    return math.atan2(way[0], way[1]) - math.atan2(ahead[0], ahead[1])


def render_moving(
    scene: Scene,
    tracks: Mapping[str, Track],
    poses: Float[np.ndarray, "n 4 4"],
    times: Sequence[float],
    size: int,
    progress: ProgressCallback = ignore_progress,
) -> Iterator[tuple[View, Rendering]]:
    """Yield what a camera per time sees; the scene has its own layout again afterwards."""
    still = scene.layout
    try:
        for i, (pose, time) in enumerate(zip(poses, times, strict=True)):
            scene.set_layout(layout_at(still, tracks, time))
            view = look(RayScene(scene.layout), pose, size)
            yield view, scene.render(view.camera, view.maps)
            report(progress, "rendering frames", i + 1, len(poses))
    finally:
        scene.set_layout(still)
