"""Collections: errors of pairwise maps beside those of the maps that all pairs agree on.

    KIND/shapes/*.off       relatives of one generated creature, each in a pose and with a mesh of
                            its own
    KIND/maps/              what `shape_matching.collection` makes of them

Errors are geodesic, over the root of the area, x100, over all ordered pairs; cycle errors are the
mean straight distance from a vertex to where cycles of three maps lead it.  What is finished is
kept, so the same call goes on, or prints again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geo3d.config import load_config
from geo3d.mesh.io import save_mesh
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.synth.creatures import generate_creature, pose, remeshed, vary_proportions
from geo3d.synth.creatures.generate import Remeshed
from geo3d.work.runner import claim
from shape_matching.collection import (
    CollectionConfig,
    MapStore,
    collection_files,
    match_collection,
)
from shape_matching.config import MatchConfig
from shape_matching.consistent import Names, PairMaps
from shape_matching.evaluate.scoring import SourceScorer

WRONG = 5.0
"""Mean error from which a map is wrong."""


@dataclass(frozen=True)
class CollectionBenchConfig:
    """Settings of `bench_collection`."""

    kinds: tuple[str, ...] = ("quadruped", "biped")
    """Kinds of creatures, a collection each."""
    shapes: int = 10
    """Shapes of each."""
    vertices: int = 900
    """Of each shape, about."""
    amount: float = 0.15
    """How much proportions differ (see `geo3d.synth.creatures.vary_proportions`)."""
    seed: int = 5
    """Seed of the creatures."""
    template: bool = False
    """Whether the first shape alone is matched with the others."""
    workers: int = 1
    """Processes."""
    match: MatchConfig = field(default_factory=lambda: load_config(MatchConfig, preset="fast"))
    """Settings of the matcher."""


def bench_collection(
    data: Path, config: CollectionBenchConfig, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Match collections of creatures; return errors before and after they are made consistent.

    Args:
        data: the folder that keeps shapes and maps.
    """
    claim(data, asdict(config), may_grow=("kinds", "workers"))
    return [row for kind in config.kinds for row in _measured(data / kind, kind, config, progress)]


def _measured(
    folder: Path, kind: str, config: CollectionBenchConfig, progress: ProgressCallback
) -> list[dict[str, Any]]:
    shapes = _shapes(kind, config)
    for name, shape in shapes.items():
        if not (path := folder / "shapes" / f"{name}.off").is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_mesh(shape.mesh, path)
    chosen = CollectionConfig(
        template=next(iter(shapes)) if config.template else "",
        workers=config.workers,
        match=config.match,
    )
    files = collection_files(folder / "shapes")
    found = match_collection(files, chosen, folder / "maps", device="cpu", progress=progress)
    store = MapStore(folder / "maps")
    matched = [(row["source"], row["target"]) for row in found["pairs"]]
    scorers = {name: SourceScorer(shape.mesh) for name, shape in shapes.items()}
    stages = {
        "pairwise": ({pair: store.matched(pair)[0] for pair in matched}, "cycle_error_pairwise"),
        "consistent": ({pair: store.consistent(pair) for pair in matched}, "cycle_error"),
    }
    return [
        {
            "shapes": f"{len(shapes)} of {kind}",
            "maps": stage,
            **_errors(maps, shapes, scorers),
            "cycle_error": None if found[cycle] is None else round(found[cycle], 3),
        }
        for stage, (maps, cycle) in stages.items()
    ]


def _shapes(kind: str, config: CollectionBenchConfig) -> dict[str, Remeshed]:
    creature = generate_creature(kind, config.seed)
    shapes = {}
    for i in range(config.shapes):
        relative = vary_proportions(creature, seed=i, amount=config.amount)
        posed = pose(relative, seed=100 + i)
        shapes[f"{kind}{i:02d}"] = remeshed(relative, posed, config.vertices, i)
    return shapes


def _errors(
    maps: Mapping[Names, PairMaps],
    shapes: Mapping[str, Remeshed],
    scorers: Mapping[str, SourceScorer],
) -> dict[str, Any]:
    errors = []
    for (one, two), both in maps.items():
        for source, target, p2p in ((one, two, both.p2p_21), (two, one, both.p2p_12)):
            truth = shapes[source].vertex_ids[shapes[target].template_ids]
            every = np.arange(len(truth))
            errors.append(100 * float(scorers[source].errors(p2p, every, truth).mean()))
    return {
        "ordered_pairs": len(errors),
        "error": round(float(np.mean(errors)), 3),
        "median": round(float(np.median(errors)), 3),
        "worst": round(max(errors), 3),
        "wrong": sum(error > WRONG for error in errors),
    }
