"""Training data of the small street teacher: images of generated streets, what they show, styles.

    make_street_data(StreetDataConfig(pictures=8000), "data/streets", workers=2)
    data = load_street_data("data/streets")

A shard holds the images of a few streets of its own; its content depends on the settings and its
number alone, not on the number of workers or on what happened before.  A broken-off run is
continued by the same call.  On disk: ``streets-0000.npz`` ..., ``settings.json``, and
``index.json``, written last.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int8, UInt8

from geo3d.config import require, require_at_least
from geo3d.layout.layout import Layout, turn
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.synth.streets.generate import generate_street
from geo3d.synth.streets.painter import StreetPainter
from geo3d.synth.streets.path import StreetKind
from geo3d.synth.streets.styles import STYLES, draw_style
from geo3d.work.pool import Limits
from geo3d.work.shards import Failed, Plan, ShardKind, fill_folder, read_all
from scenes.urban.conditions import LayoutMaps, RayScene, condition_image, street_camera

IMAGES_PER_SHARD = 200
_STREETS_PER_SHARD = 5
_SHARD_SECONDS = 1800.0
_KINDS: tuple[StreetKind, ...] = ("straight", "curved", "crossing")
_SEED_BLOCK = 1_000_000
ARRAYS = ("pictures", "labels", "depths", "styles")
"""Their names on disk, in the order of `StreetImages`."""


@dataclass(frozen=True)
class StreetDataConfig:
    """What a folder of images holds."""

    pictures: int = 8000
    """How many, in shards of 200; a folder may be enlarged later."""
    seed: int = 0
    """Folders of different seeds have no street in common."""
    size: int = 48
    """Pixels per side."""
    styles_per_view: int = 2
    """Images of each camera, in different styles."""
    pairs: float = 0.35
    """Share of images with a light and a look; the others have one style."""
    street_length: float = 140.0
    """Metres."""
    yaw_deg: float = 45.0
    """Cameras are turned by up to this."""
    offset: float = 1.0
    """Metres that cameras are moved sideways and along, at most."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "pictures styles_per_view")
        require_at_least(self, 0, "seed")
        fits = 8 <= self.size <= 1024 and self.size % 8 == 0
        require(fits, "size", "a multiple of 8, at most 1024")
        require(0 <= self.pairs <= 1, "pairs", "a share in [0, 1]")
        require_at_least(self, 30, "street_length")


@dataclass(frozen=True, eq=False)
class StreetImages:
    """Images as arrays."""

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int8[np.ndarray, "n h w"]
    """Class ids; -1 where nothing is."""
    depths: Float[np.ndarray, "n h w"]
    """z-depth in metres, float16; -1 where nothing is."""
    styles: np.ndarray
    """(n,) names of the styles, joined by "+"."""

    def __len__(self) -> int:
        return len(self.images)

    def style(self, i: int) -> tuple[str, ...]:
        """Return the styles of image ``i``."""
        return tuple(str(self.styles[i]).split("+"))

    def condition(self, i: int) -> Float[np.ndarray, "4 h w"]:
        """Return the ControlNet's input of image ``i``."""
        depth = self.depths[i].astype(np.float32)
        return condition_image(LayoutMaps(depth, self.labels[i], np.zeros(depth.shape, np.int32)))

    def part(self, which: slice | np.ndarray) -> StreetImages:
        """Return some of the images."""
        return StreetImages(*(array[which] for array in vars(self).values()))


def make_street_data(
    config: StreetDataConfig,
    out: str | Path,
    *,
    workers: int = 1,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Make the images in folder ``out`` and return its index.

    Shards that are already there with the same settings are kept.

    Raises:
        InputError: ``work.other_folder`` when ``out`` is for other settings.
        Cancelled: from ``progress``.
    """
    jobs = [_in_shard(config, number) for number in range(-(-config.pictures // IMAGES_PER_SHARD))]
    return fill_folder(
        STREET_SHARDS,
        Path(out),
        Plan(asdict(config), jobs, grows="pictures"),
        partial(partial, _shard, config),
        Limits(workers, timeout=_SHARD_SECONDS, threads=1),
        progress,
    )


def street_images(config: StreetDataConfig, shard: int) -> StreetImages:
    """Draw the images of one shard."""
    rng = np.random.default_rng([config.seed, shard])
    count = _in_shard(config, shard)
    streets = min(_STREETS_PER_SHARD, count)
    parts = []
    for i in range(streets):
        number = config.seed * _SEED_BLOCK + shard * _STREETS_PER_SHARD + i
        kind = _KINDS[number % len(_KINDS)]
        layout = generate_street(config.street_length, number, kind)
        wanted = count // streets + (i < count % streets)
        parts.append(draw_street(layout, number, wanted, config, rng))
    return StreetImages(*(np.concatenate([p[k] for p in parts]) for k in range(len(ARRAYS))))


def draw_street(
    layout: Layout, seed: int, count: int, config: StreetDataConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return ``count`` images of a layout from random cameras, with labels, depths, styles."""
    painter, rays = StreetPainter(layout, seed), RayScene(layout, threads=1)
    images, labels, depths, styles = [], [], [], []
    while len(images) < count:
        pose = jittered(layout.trajectory, config, rng)
        camera = street_camera(pose, config.size)
        view, maps = painter.view(camera), rays.maps(camera, segments=False)
        for _ in range(min(config.styles_per_view, count - len(images))):
            style = draw_style(rng, config.pairs)
            images.append(painter.paint(view, style))
            labels.append(maps.label)
            depths.append(maps.depth.astype(np.float16))
            styles.append("+".join(style))
    return np.array(images), np.array(labels), np.array(depths), np.array(styles, "U32")


def jittered(
    trajectory: Float[np.ndarray, "n 4 4"], config: StreetDataConfig, rng: np.random.Generator
) -> Float[np.ndarray, "4 4"]:
    """Return a pose of the trajectory, turned about the vertical and moved a little in the plan."""
    pose = np.array(trajectory[rng.integers(len(trajectory))], np.float64)
    # most cameras look along the street, as those of a drive do
    yaw = np.radians(config.yaw_deg) * rng.uniform(-1, 1) * rng.uniform()
    pose[:3, :3] = turn(float(yaw)) @ pose[:3, :3]
    pose[[0, 2], 3] += config.offset * rng.uniform(-1, 1, 2)
    pose[1, 3] += 0.2 * config.offset * rng.uniform(-1, 1)
    return pose


def load_street_data(folder: str | Path) -> StreetImages:
    """Return all images of a finished folder.

    Raises:
        As `geo3d.work.shards.read_all`.
    """
    parts = read_all(STREET_SHARDS, folder)
    return StreetImages(*map(np.concatenate, zip(*(vars(p).values() for p in parts), strict=True)))


def _shard(config: StreetDataConfig, number: int, count: int) -> tuple[StreetImages, Failed]:
    return street_images(config, number), {}


def _arrays(made: StreetImages) -> dict[str, np.ndarray]:
    return dict(zip(ARRAYS, vars(made).values(), strict=True))


def _build(arrays: dict[str, np.ndarray]) -> StreetImages:
    made = StreetImages(*(arrays[name] for name in ARRAYS))
    n, shape = len(made.images), made.images.shape[:3]
    known = {name for text in made.styles.tolist() for name in str(text).split("+")} <= set(STYLES)
    if not (
        made.labels.shape == shape == made.depths.shape and made.styles.shape == (n,) and known
    ):
        raise ValueError("its arrays do not fit each other")
    return made


def _in_shard(config: StreetDataConfig, number: int) -> int:
    return min(IMAGES_PER_SHARD, config.pictures - number * IMAGES_PER_SHARD)


STREET_SHARDS = ShardKind("streets", "pictures", 1, ("key", *ARRAYS), _arrays, _build)
