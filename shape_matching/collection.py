"""Maps between all shapes of a folder: matched pair by pair, then made consistent.

    settings.json           what the folder is for
    pairs/A--B.npz          the maps of a pair as they were matched, both ways
    pairs/A--B.json         numbers of that match, written last
    failures/A--B.json      what went wrong with a pair
    maps/A--B.npz           the consistent maps of all pairs: going round a cycle leads back
    collection.json         the numbers of the whole

All pairs are matched in parallel, or one shape, the template, with all others; what is finished is
kept and the same call goes on.  How the maps are made consistent: `shape_matching.consistent`.
"""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geo3d.config import config_to_dict, require, require_at_least
from geo3d.errors import InputError
from geo3d.files import atomic_path, atomic_write_json
from geo3d.mesh.io import load_mesh
from geo3d.npz import read_npz
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.work.pool import Limits, Task, raise_if_stopping
from geo3d.work.runner import Work, claim, run_items
from geo3d.work.slurm import EngineName, SlurmConfig, engine_of
from shape_matching.config import MatchConfig
from shape_matching.consistent import Names, PairMaps, make_consistent
from shape_matching.map_files import MAX_MAP_BYTES
from shape_matching.methods import METHODS

SUFFIXES = (".off", ".obj", ".ply", ".stl", ".glb")
SUMMARY = "collection.json"
WRONG_FROM = 4.0
"""Mean distance, x100, between the images under a pairwise and the consistent map from which the
pairwise map counts as wrong."""


@dataclass(frozen=True)
class CollectionConfig:
    """Settings of `match_collection`."""

    method: str = "axiomatic"
    """Name in `shape_matching.methods.METHODS`."""
    template: str = ""
    """Name of the shape that is matched with all others; empty matches all pairs."""
    workers: int = 1
    """Processes; the processor's cores are divided among them."""
    pair_timeout: float | None = None
    """Seconds after which a pair is stopped and recorded as failed."""
    engine: EngineName = "local"
    """Processes of this machine, or jobs of a cluster."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """What to ask the cluster for."""
    match: MatchConfig = field(default_factory=MatchConfig)
    """Settings of the method."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "workers")
        positive = self.pair_timeout is None or self.pair_timeout > 0
        require(positive, "pair_timeout", "a number of seconds above 0")
        require(self.method in METHODS, "method", f"one of {', '.join(METHODS)}")


def collection_files(folder: Path) -> dict[str, Path]:
    """Return the meshes of a folder by name, sorted.

    Raises:
        InputError: ``collection.too_few`` below 2 meshes; ``dataset.duplicate_name``.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            if path.stem in found:
                raise InputError(
                    "dataset.duplicate_name",
                    f"{found[path.stem].name} and {path.name} are one name, {path.stem}.",
                    "Rename one of them.",
                )
            found[path.stem] = path
    if len(found) < 2:
        raise InputError(
            "collection.too_few",
            f"{folder} holds {len(found)} meshes.",
            f"A collection has at least 2 files that end in {' '.join(SUFFIXES)}.",
        )
    seen: dict[str, Names] = {}
    for pair in itertools.combinations(found, 2):
        if (other := seen.setdefault(pair_name(pair), pair)) != pair:
            raise InputError(
                "dataset.duplicate_name",
                f"The pairs {other} and {pair} are one name, {pair_name(pair)}.",
                "Rename a file, so that no name holds --.",
            )
    return found


def collection_pairs(names: Sequence[str], template: str = "") -> list[Names]:
    """Return all pairs, or those of the template, which is their source.

    Raises:
        InputError: ``collection.no_template``.
    """
    if not template:
        return list(itertools.combinations(names, 2))
    if template not in names:
        raise InputError(
            "collection.no_template",
            f"There is no shape {template}.",
            f"The folder holds {', '.join(list(names)[:20])}.",
        )
    return [(template, name) for name in names if name != template]


class MapStore:
    """The maps of a collection on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def is_matched(self, name: str) -> bool:
        """Tell whether the match of a pair, by `pair_name`, is there."""
        return self._path("pairs", name, ".json").is_file()

    def matched(self, pair: Names) -> tuple[PairMaps, dict[str, Any]]:
        """Return the maps of a pair as they were matched, and the numbers of that match."""
        name = pair_name(pair)
        record = json.loads(self._path("pairs", name, ".json").read_text(encoding="utf-8"))
        return self._read("pairs", name), record

    def put_matched(self, pair: Names, maps: PairMaps, record: Mapping[str, Any]) -> None:
        """Store a match."""
        self._write("pairs", pair_name(pair), maps)
        atomic_write_json(self._path("pairs", pair_name(pair), ".json"), record)

    def consistent(self, pair: Names) -> PairMaps:
        """Return the consistent maps of a pair, whichever way round it is stored."""
        if self._path("maps", pair_name(pair), ".npz").is_file():
            return self._read("maps", pair_name(pair))
        maps = self._read("maps", pair_name((pair[1], pair[0])))
        return PairMaps(maps.p2p_12, maps.p2p_21)

    def put_consistent(self, pair: Names, maps: PairMaps) -> None:
        """Store the consistent maps of a pair."""
        self._write("maps", pair_name(pair), maps)

    def _read(self, kind: str, name: str) -> PairMaps:
        found = read_npz(self._path(kind, name, ".npz"), ("p2p_21", "p2p_12"), MAX_MAP_BYTES)
        return PairMaps(found["p2p_21"], found["p2p_12"])

    def _write(self, kind: str, name: str, maps: PairMaps) -> None:
        with atomic_path(self._path(kind, name, ".npz")) as beside, beside.open("wb") as file:
            np.savez_compressed(file, p2p_21=maps.p2p_21, p2p_12=maps.p2p_12)

    def _path(self, kind: str, name: str, suffix: str) -> Path:
        (self._folder / kind).mkdir(parents=True, exist_ok=True)
        return self._folder / kind / f"{name}{suffix}"


def pair_name(pair: Names) -> str:
    """Return the name of a pair's files."""
    return f"{pair[0]}--{pair[1]}"


def make_pair_handler(
    files: Mapping[str, Path], method: str, config: MatchConfig, device: str, folder: Path
) -> Callable[[Names], None]:
    """Return the handler of a worker, which matches a pair and stores it."""
    load = functools.lru_cache(maxsize=8)(lambda name: load_mesh(files[name]))
    store = MapStore(folder)

    def run(pair: Names) -> None:
        source, target = (load(name) for name in pair)
        begun = time.perf_counter()
        found = METHODS[method](source, target, config, device=device, progress=raise_if_stopping)
        record = {
            "probability": found.probability,
            "confidence": float(found.confidence.mean()),
            "ambiguous": found.ambiguous,
            "is_piece": found.overlap_1 is not None,
            "notes": list(found.notes),
            "seconds": round(time.perf_counter() - begun, 2),
        }
        store.put_matched(pair, PairMaps(found.p2p_21, found.p2p_12), record)

    return run


def match_collection(
    files: Mapping[str, Path],
    config: CollectionConfig,
    folder: Path,
    *,
    device: str = "auto",
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Match the pairs, make their maps consistent, and return the numbers of the whole.

    Args:
        files: meshes by name (see `collection_files`).
        folder: results; pairs that are finished there are kept.

    Raises:
        InputError: ``work.other_folder``, ``collection.no_template``, ``collection.no_pairs`` when
            not a single pair could be matched.
        Cancelled: from ``progress``; what is finished is kept.
    """
    names, folder = list(files), folder.resolve()
    pairs = collection_pairs(names, config.template)
    claim(folder, _identity(files, config))
    store = MapStore(folder)
    # A worker that stays with a source prepares it once.
    tasks = [Task(pair_name(pair), pair, pair[0]) for pair in pairs]
    handler = functools.partial(
        make_pair_handler, dict(files), config.method, config.match, device, folder
    )
    engine = engine_of(config.engine, config.slurm, folder)
    work = Work(folder, tasks, handler, store.is_matched, "pairs", engine=engine)
    failures = run_items(work, Limits(config.workers, config.pair_timeout), progress)
    matched = [pair for pair in pairs if store.is_matched(pair_name(pair))]
    if not matched:
        raise InputError(
            "collection.no_pairs",
            f"None of the {len(pairs)} pairs could be matched.",
            next(iter(failures.values()))["message"],
        )
    read = {name for pair in matched for name in pair}
    meshes = {name: load_mesh(path) for name, path in files.items() if name in read}
    found = {pair: store.matched(pair) for pair in matched}
    usable = {pair: maps for pair, (maps, record) in found.items() if not record["is_piece"]}
    report(progress, "consistent maps", 0, 1)
    result = make_consistent(meshes, usable, config.match, device)
    for pair, maps in result.maps.items():
        store.put_consistent(pair, maps)
    report(progress, "consistent maps", 1, 1)
    rows = [
        {"source": pair[0], "target": pair[1], **record, **result.pairs.get(pair, {})}
        for pair, (_, record) in found.items()
    ]
    numbers = {
        "shapes": len(names),
        "pairs": rows,
        "failed": failures,
        "left_out": sorted(set(names) - set(result.names)),
        "cycle_error_pairwise": result.cycle_before,
        "cycle_error": result.cycle_after,
        "wrong_from": WRONG_FROM,
    }
    atomic_write_json(folder / SUMMARY, numbers)
    return numbers


def _identity(files: Mapping[str, Path], config: CollectionConfig) -> dict[str, Any]:
    """Return what must agree for two calls to be the same work."""
    return {
        "files": {name: str(path.resolve()) for name, path in files.items()},
        "method": config.method,
        "template": config.template,
        "match": config_to_dict(config.match),
    }
