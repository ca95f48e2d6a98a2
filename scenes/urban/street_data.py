"""Training data of the small street teacher: pictures of generated streets, what they show, styles.

    make_street_data(StreetDataConfig(pictures=8000), "data/streets", workers=2)
    data = load_street_data("data/streets")

A shard holds the pictures of a few streets of its own; its content depends on the settings and its
number alone, not on the number of workers or on what happened before.  A broken-off run is
continued by the same call.  On disk: ``streets-0000.npz`` ..., ``settings.json``, and
``index.json``, written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int8, UInt8

from geo3d import __version__
from geo3d.errors import ConfigError, FileFormatError, InputError
from geo3d.files import atomic_path, atomic_write_json, sha256_file
from geo3d.layout.layout import Layout, turn
from geo3d.npz import read_npz
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.synth.streets.generate import generate_street
from geo3d.synth.streets.painter import StreetPainter
from geo3d.synth.streets.path import StreetKind
from geo3d.synth.streets.styles import STYLES, draw_style
from geo3d.work.pool import Task, run_pool
from scenes.urban.conditions import LayoutMaps, RayScene, condition_image, street_camera

FORMAT = 1
"""Part of the key of every shard; raised when the pictures or the format change."""
INDEX, SETTINGS = "index.json", "settings.json"
PICTURES_PER_SHARD = 200
SHARD_BYTES = 1 << 30
_STREETS_PER_SHARD = 5
_SHARD_SECONDS = 1800.0
_KINDS: tuple[StreetKind, ...] = ("straight", "curved", "crossing")
_SEED_BLOCK = 1_000_000
ARRAYS = ("pictures", "labels", "depths", "styles")
Payload = tuple[str, int, str]


@dataclass(frozen=True)
class StreetDataConfig:
    """What a folder of pictures holds."""

    pictures: int = 8000
    """How many, in shards of 200; a folder may be enlarged later."""
    seed: int = 0
    """Folders of different seeds have no street in common."""
    size: int = 48
    """Pixels per side."""
    styles_per_view: int = 2
    """Pictures of each camera, in different styles."""
    pairs: float = 0.35
    """Share of pictures with a light and a look; the others have one style."""
    street_length: float = 140.0
    """Metres."""
    yaw_deg: float = 45.0
    """Cameras are turned by up to this."""
    offset: float = 1.0
    """Metres that cameras are moved sideways and along, at most."""


@dataclass(frozen=True, eq=False)
class StreetPictures:
    """Pictures as arrays."""

    pictures: UInt8[np.ndarray, "n h w 3"]
    labels: Int8[np.ndarray, "n h w"]
    """Class ids; -1 where nothing is."""
    depths: Float[np.ndarray, "n h w"]
    """z-depth in metres, float16; -1 where nothing is."""
    styles: np.ndarray
    """(n,) names of the styles, joined by "+"."""

    def __len__(self) -> int:
        return len(self.pictures)

    def style(self, i: int) -> tuple[str, ...]:
        """Return the styles of picture ``i``."""
        return tuple(str(self.styles[i]).split("+"))

    def condition(self, i: int) -> Float[np.ndarray, "4 h w"]:
        """Return the ControlNet's input of picture ``i``."""
        depth = self.depths[i].astype(np.float32)
        return condition_image(LayoutMaps(depth, self.labels[i], np.zeros(depth.shape, np.int32)))

    def part(self, which: slice | np.ndarray) -> StreetPictures:
        """Return some of the pictures."""
        return StreetPictures(*(getattr(self, name)[which] for name in ARRAYS))


def make_street_data(
    config: StreetDataConfig,
    out: str | Path,
    *,
    workers: int = 1,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Make the pictures in folder ``out`` and return its index.

    Shards that are already there with the same settings are kept.

    Raises:
        ConfigError: ``street_data.bad_setting``.
        InputError: ``street_data.other_folder`` when ``out`` is for other settings.
        Cancelled: from ``progress``.
    """
    _check(config)
    folder, settings = Path(out), asdict(config)
    _claim(folder, settings)
    # a shard does not depend on how many come after it
    keys = [_key({**settings, "pictures": _in_shard(config, n)}, n) for n in range(_shards(config))]
    todo = [n for n, key in enumerate(keys) if not _is_kept(folder, n, key)]
    if todo:
        (folder / INDEX).unlink(missing_ok=True)
    tasks = [Task(n, n, (str(folder), n, keys[n])) for n in todo]
    lost, made = {}, len(keys) - len(todo)

    def tell() -> None:
        report(progress, "shards of street pictures", made, len(keys), lost=len(lost))

    handler = partial(make_handler, config)
    for outcome in run_pool(tasks, handler, workers, _SHARD_SECONDS, tell, 1) if tasks else ():
        made += 1
        if outcome.error is not None:
            lost[outcome.task.index] = f"{outcome.error['code']}: {outcome.error['message']}"
        tell()
    return _write_index(folder, settings, len(keys), lost)


def make_handler(config: StreetDataConfig) -> Callable[[Payload], int]:
    """Return what a worker does with a (folder, number, key) of a shard."""
    return partial(_make_shard, config)


def street_pictures(config: StreetDataConfig, shard: int) -> StreetPictures:
    """Draw the pictures of one shard."""
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
    return StreetPictures(*(np.concatenate([p[k] for p in parts]) for k in range(len(ARRAYS))))


def draw_street(
    layout: Layout, seed: int, count: int, config: StreetDataConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return ``count`` pictures of a layout from random cameras, with labels, depths, styles."""
    painter, rays = StreetPainter(layout, seed), RayScene(layout, threads=1)
    pictures, labels, depths, styles = [], [], [], []
    while len(pictures) < count:
        pose = jittered(layout.trajectory, config, rng)
        camera = street_camera(pose, config.size)
        view, maps = painter.view(camera), rays.maps(camera, segments=False)
        for _ in range(min(config.styles_per_view, count - len(pictures))):
            style = draw_style(rng, config.pairs)
            pictures.append(painter.picture(view, style))
            labels.append(maps.label)
            depths.append(maps.depth.astype(np.float16))
            styles.append("+".join(style))
    return np.array(pictures), np.array(labels), np.array(depths), np.array(styles, "U32")


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


def load_street_data(folder: str | Path) -> StreetPictures:
    """Return all pictures of a finished folder.

    Raises:
        InputError: ``street_data.no_index``.
        FileFormatError: ``street_data.bad_shard``.
    """
    root = Path(folder)
    if not (root / INDEX).is_file():
        raise InputError(
            "street_data.no_index",
            f"{folder} has no {INDEX}: it is no finished folder of street pictures.",
            "Run the command that makes it again; it continues a broken-off run.",
        )
    parts = []
    try:
        for entry in json.loads((root / INDEX).read_text("utf-8"))["shards"]:
            path = root / Path(entry["file"]).name
            if sha256_file(path) != entry["sha256"]:
                raise ValueError(f"{path.name} is not what the index says")
            parts.append(_read_shard(path)[0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(
            "street_data.bad_shard",
            f"{folder} cannot be used: {error}.",
            "Run the command that made the folder again; it replaces damaged shards.",
        ) from error
    return StreetPictures(*(np.concatenate([getattr(p, name) for p in parts]) for name in ARRAYS))


def _make_shard(config: StreetDataConfig, payload: Payload) -> int:
    folder, number, key = payload
    made = street_pictures(config, number)
    with atomic_path(_shard_path(Path(folder), number)) as path, open(path, "wb") as stream:
        arrays = {name: getattr(made, name) for name in ARRAYS}
        np.savez_compressed(stream, key=np.array(key), **arrays)
    return len(made)


def _read_shard(path: Path) -> tuple[StreetPictures, str]:
    arrays = read_npz(path, (*ARRAYS, "key"), SHARD_BYTES)
    made = StreetPictures(*(arrays[name] for name in ARRAYS))
    n, shape = len(made.pictures), made.pictures.shape[:3]
    known = {name for text in made.styles.tolist() for name in str(text).split("+")} <= set(STYLES)
    if not (
        made.labels.shape == shape == made.depths.shape and made.styles.shape == (n,) and known
    ):
        raise ValueError(f"the arrays of {path.name} do not fit each other")
    return made, str(arrays["key"])


def _is_kept(folder: Path, number: int, key: str) -> bool:
    try:
        return _read_shard(_shard_path(folder, number))[1] == key
    except (OSError, ValueError):
        return False


def _write_index(
    folder: Path, settings: Mapping[str, Any], count: int, lost: Mapping[int, str]
) -> dict[str, Any]:
    paths = [_shard_path(folder, n) for n in range(count) if n not in lost]
    index = {
        "format": FORMAT,
        "geo3d": __version__,
        "settings": dict(settings),
        "shards": [{"file": path.name, "sha256": sha256_file(path)} for path in paths],
        "lost_shards": {str(n): text for n, text in lost.items()},
    }
    atomic_write_json(folder / INDEX, index)
    return index


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder of other settings; more of the same is welcome."""
    path = folder / SETTINGS
    if path.is_file():
        try:
            found = {**json.loads(path.read_text("utf-8")), "pictures": settings["pictures"]}
        except (TypeError, ValueError):
            found = {}
        if found != settings:
            raise InputError(
                "street_data.other_folder",
                f"{folder} is for street pictures of other settings.",
                "Choose another folder.",
            )
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, dict(settings))


def _check(config: StreetDataConfig) -> None:
    problems = {
        "pictures": config.pictures < 1,
        "seed": config.seed < 0,
        "size": not 8 <= config.size <= 1024 or config.size % 8 != 0,
        "styles_per_view": config.styles_per_view < 1,
        "pairs": not 0 <= config.pairs <= 1,
        "street_length": not config.street_length >= 30,
    }
    for name, is_bad in problems.items():
        if is_bad:
            raise ConfigError(
                "street_data.bad_setting",
                f"{name} = {getattr(config, name)!r} cannot be used.",
                "Sizes are multiples of 8, shares lie in [0, 1], streets have 30 m or more.",
            )


def _shards(config: StreetDataConfig) -> int:
    return -(-config.pictures // PICTURES_PER_SHARD)


def _in_shard(config: StreetDataConfig, number: int) -> int:
    return min(PICTURES_PER_SHARD, config.pictures - number * PICTURES_PER_SHARD)


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"streets-{number:04d}.npz"


def _key(settings: Mapping[str, Any], number: int) -> str:
    text = json.dumps([FORMAT, dict(settings), number], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
