"""Random combinations of what is wrong with files: a map must be right, or doubted.

    cells/settings.json        what the folder is for
    cells/00042.json           one pair: what was done to it, error, probability

Every pair is a creature in two poses, often with other proportions or triangles of its own, or two
creatures of different kinds.  Both get any combination of another size and rotation, cuts, noise,
seams, specks, unused and doubled vertices, or lose their faces.  What is finished is kept, and more
pairs may be asked for later: the same call goes on.

Right: mean error below 5 (x100 over the root of the area) where there is truth.  Doubted: the
probability is below the threshold, or the map is called ambiguous.  Refused: an error with a code.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from apps.bench.measuring import timed
from geo3d.config import config_from_dict, require, require_at_least
from geo3d.errors import Geo3dError
from geo3d.files import atomic_write_json
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.synth.creatures import (
    KINDS,
    Creature,
    generate_creature,
    pose,
    remeshed,
    vary_proportions,
)
from geo3d.synth.creatures.kinship import BUILT_ALIKE, counterparts
from geo3d.work.runner import claim
from shape_matching.confidence.data import map_error, true_map
from shape_matching.confidence.defects import (
    Shape,
    cloud,
    cut,
    doubled,
    noise,
    seams,
    specks,
    turned,
    unused,
)
from shape_matching.config import PRESETS, MatchConfig
from shape_matching.evaluate.metrics import FLAG, RIGHT
from shape_matching.match import match

VERTICES = (900, 1600)
"""Range of the vertices of remeshed shapes."""


def moved(shape: Shape, rng: np.random.Generator, scale: float) -> Shape:
    """Turn, move and scale the shape."""
    shape = turned(shape, rng)
    points = scale * (shape.mesh.vertices + rng.standard_normal(3))
    return Shape(replace(shape.mesh, vertices=points), shape.template_ids)


CUT = 0.15
"""Probability that a pair has pieces; they keep their unit, as pieces are matched by lengths."""
DEFECTS = {
    "noise": (0.3, noise), "seams": (0.2, seams), "doubled": (0.2, doubled),
    "specks": (0.25, specks), "unused": (0.2, unused), "cloud": (0.1, cloud),
}  # fmt: skip
"""Probability of the others, in the order in which they are put on."""


@dataclass(frozen=True)
class FuzzConfig:
    """Settings of `bench_fuzz`."""

    pairs: int = 1000
    """How many; asking for more goes on."""
    kinds: float = 0.15
    """Share of pairs of two creatures, of any two kinds that are built alike."""
    preset: str = "fast"
    """How they are matched."""
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 1, "pairs")
        require(0 <= self.kinds <= 1, "kinds", "a share in 0..1")
        require(self.preset in PRESETS, "preset", f"one of {', '.join(PRESETS)}")


@dataclass(frozen=True, eq=False)
class FuzzPair:
    """A pair, what was done to it, and its truth."""

    source: Mesh
    target: Mesh
    truth: Int[np.ndarray, " n2"]
    """Source vertex of every target vertex, -1 where there is none."""
    unit: float
    """Root of the area of the whole source."""
    done: tuple[str, ...]


def bench_fuzz(
    data: Path, config: FuzzConfig, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Return a row per kind of outcome; pairs that ``data`` holds are not matched again."""
    claim(data, {k: v for k, v in asdict(config).items() if k != "pairs"})
    cells = []
    for n in range(config.pairs):
        report(progress, "pairs", n, config.pairs)
        path = data / f"{n:05d}.json"
        if not path.is_file():
            atomic_write_json(path, _cell(config, n))
        cells.append(json.loads(path.read_text(encoding="utf-8")))
    counts = Counter(cell["outcome"] for cell in cells)
    return [
        {
            "outcome": outcome,
            "pairs": counts[outcome],
            "share": f"{counts[outcome] / len(cells):.1%}",
            "numbers": " ".join(str(c["number"]) for c in cells if c["outcome"] == outcome)
            if "wrong" in outcome and "doubted" not in outcome
            else "",
        }
        for outcome in OUTCOMES
    ]


OUTCOMES = ("right", "right, doubted", "wrong, doubted", "confidently wrong", "no truth", "refused")


def fuzz_pair(config: FuzzConfig, number: int) -> FuzzPair:
    """Return the pair of a number."""
    rng = np.random.default_rng([*b"fuzz", config.seed, number])
    if rng.uniform() < config.kinds:
        creatures = [
            generate_creature(str(kind), int(rng.integers(2**31)), 1600)
            for kind in rng.choice(BUILT_ALIKE, 2)
        ]
        at = counterparts(*creatures)
        shapes = [_shape(creature, rng) for creature in creatures]
        known = shapes[1].template_ids
        shapes[1] = Shape(shapes[1].mesh, np.where(known >= 0, at[known], -1))
        creature, done = creatures[0], ["other kinds"]
    else:
        creature = generate_creature(str(rng.choice(KINDS)), int(rng.integers(2**31)), 1600)
        shapes, done = [_shape(creature, rng), _shape(creature, rng)], []
    is_cut = rng.uniform() < CUT
    scales = [1.0 if is_cut else 10.0 ** rng.integers(-3, 4) for _ in shapes]
    shapes = [moved(s, rng, scale) for s, scale in zip(shapes, scales, strict=True)]
    unit = float(np.sqrt(total_area(shapes[0].mesh)))
    done += [f"size {scale:g}" for scale in scales if scale != 1.0]
    for i, side in enumerate(("source", "target")):
        chosen = {"cut": cut} if is_cut and rng.uniform() < 0.6 else {}
        chosen |= {n: defect for n, (share, defect) in DEFECTS.items() if rng.uniform() < share}
        for name, defect in chosen.items():
            shapes[i] = defect(shapes[i], rng)
            done.append(f"{name} {side}")
    truth = true_map(creature, *shapes)
    return FuzzPair(shapes[0].mesh, shapes[1].mesh, truth, unit, tuple(done))


def _shape(creature: Creature, rng: np.random.Generator) -> Shape:
    seeds = [int(rng.integers(2**31)) for _ in range(3)]
    relative, anew = rng.uniform(size=2) < [0.5, 0.4]
    who = vary_proportions(creature, seeds[0], rng.uniform(0, 0.12)) if relative else creature
    mesh = pose(who, seeds[1], rng.uniform(0.2, 0.6))
    if anew:
        try:
            found = remeshed(who, mesh, int(rng.integers(*VERTICES)), seeds[2])
            return Shape(found.mesh, found.template_ids)
        except Geo3dError:
            pass  # a pose that folds too sharply keeps its triangles
    return Shape(mesh, np.arange(mesh.n_vertices))


def _cell(config: FuzzConfig, number: int) -> dict[str, Any]:
    pair = fuzz_pair(config, number)
    settings = config_from_dict(MatchConfig, {**PRESETS[config.preset], "cache": False})
    cell: dict[str, Any] = {"number": number, "done": list(pair.done)}
    try:
        found, spent = timed(match, pair.source, pair.target, settings, device="cpu")
    except Geo3dError as error:
        return {**cell, "outcome": "refused", "code": error.code}
    doubted = found.ambiguous or (found.probability or 0.0) < FLAG
    cell |= {"probability": found.probability, "ambiguous": found.ambiguous, "cpu_s": spent.cpu}
    error = map_error(found, pair.truth, pair.unit)
    if np.isinf(error):
        return {**cell, "outcome": "no truth"}
    words = {
        (True, False): "right", (True, True): "right, doubted",
        (False, True): "wrong, doubted", (False, False): "confidently wrong",
    }  # fmt: skip
    return {**cell, "error": 100 * error, "outcome": words[error < RIGHT, bool(doubted)]}
