"""What the model of confidence learns from: maps that the matcher made, right and wrong, and truth.

make_outcomes(OutcomeConfig(pairs=400), "data/outcomes", workers=2)

Each file is one generated pair with the defects that files have (`shape_matching.confidence.
defects`), matched as users' pairs are.  Where the search has an alternative, that map is refined
too; of some pairs there is one more, from a start that exchanges or mirrors parts.  Other pairs are
of two different creatures: where these are built alike, their skeletons say what is right; where
not, no map is.  A broken-off run is continued by the same call.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.spatial import KDTree

from geo3d.config import config_from_dict, require, require_at_least
from geo3d.errors import Geo3dError, InputError
from geo3d.mesh.geodesic import graph_distances
from geo3d.mesh.ops import total_area
from geo3d.npz import read_npz
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.synth.creatures.generate import Creature
from geo3d.synth.creatures.kinship import BUILT_ALIKE, counterparts
from geo3d.work.examples import fill_examples
from geo3d.work.pool import Limits
from shape_matching.confidence.defects import Shape, random_defects, turned
from shape_matching.confidence.signals import LOCAL, WHOLE, Signals, signals
from shape_matching.config import PRESETS, MatchConfig
from shape_matching.correspondence import Correspondence, filled
from shape_matching.match import match_uncalibrated
from shape_matching.prior.families import PriorDataConfig, family
from shape_matching.search.sound import joined

PAIR_SECONDS = 240.0
REACH = 0.05
"""Distance at rest, over the root of the area, within which a place counts as there."""
OUTCOME_BYTES = 1 << 24
_ARRAYS = ("local", "whole", "errors", "error", "chosen", "counts")
N_SCORED = 200


@dataclass(frozen=True)
class OutcomeConfig:
    """Settings of a folder of outcomes."""

    pairs: int = 336
    """How many; each of a creature of its own."""
    shapes: PriorDataConfig = field(
        default_factory=lambda: PriorDataConfig(
            seed=77, members=2, vertices=1600, remeshed_vertices=(800, 1600)
        )
    )
    """Where the creatures and their families come from."""
    strangers: float = 0.25
    """Share of pairs of two different creatures."""
    plain: float = 0.25
    """Share of pairs without defects."""
    forced: float = 0.4
    """Share of other pairs with a map from a start with parts exchanged."""
    preset: str = "fast"
    """How they are matched."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "pairs")
        require(0 <= self.strangers <= 1, "strangers", "a share in 0..1")
        require(0 <= self.plain <= 1, "plain", "a share in 0..1")
        require(0 <= self.forced <= 1, "forced", "a share in 0..1")
        require(self.preset in PRESETS, "preset", f"one of {', '.join(PRESETS)}")


@dataclass(frozen=True, eq=False)
class Outcome:
    """A map, as its signals show it, and how wrong it is."""

    seen: Signals
    errors: Float[np.ndarray, " s"]
    """At the samples; infinite where a vertex has no counterpart, NaN where nobody knows which."""
    error: float
    """Of the map: see `map_error`."""
    chosen: bool
    """Whether the matcher chose it by itself."""


def make_outcomes(
    config: OutcomeConfig,
    out: str | Path,
    *,
    workers: int = 1,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, str]:
    """Make the outcomes that are not there yet; return the pairs that gave none, with the reason.

    Raises:
        InputError: ``work.other_folder`` when ``out`` is for other settings.
        Cancelled: from ``progress``.
    """
    settings = {key: value for key, value in asdict(config).items() if key != "pairs"}
    limits = Limits(workers, timeout=PAIR_SECONDS, threads=1)
    make = partial(_outcomes, config)
    return fill_examples(Path(out), settings, config.pairs, make, limits, "outcomes", progress)


def read_outcomes(path: Path) -> list[Outcome]:
    """Return the outcomes of a pair.

    Raises:
        InputError: ``confidence_data.bad_outcome``.
    """
    try:
        stored = read_npz(path, _ARRAYS, OUTCOME_BYTES)
        ends = np.cumsum(stored["counts"])
        if stored["local"].shape != (ends[-1], len(LOCAL)) or stored["whole"].shape[1] != len(
            WHOLE
        ):
            raise ValueError("it holds other signals")
    except (OSError, ValueError) as error:
        raise InputError(
            "confidence_data.bad_outcome",
            f"{path} holds no outcomes: {error}.",
            "Delete it and run the command again, or choose another folder.",
        ) from error
    found = []
    for i, end in enumerate(ends):
        part = slice(end - stored["counts"][i], end)
        none = np.zeros(stored["counts"][i], np.int64)
        seen = Signals(none, stored["local"][part].astype(float), stored["whole"][i].astype(float))
        errors, error = stored["errors"][part].astype(float), float(stored["error"][i])
        found.append(Outcome(seen, errors, error, bool(stored["chosen"][i])))
    return found


def true_errors(
    found: Correspondence,
    samples: Int64[np.ndarray, " s"],
    truth_21: Int64[np.ndarray, " v2"],
    unit: float,
) -> Float[np.ndarray, " s"]:
    """Return the distance of each sample's image to the truth, along the source over ``unit``;
    seams are no obstacle, and to loose pieces it is the straight distance.

    Args:
        truth_21: true source vertex of each target vertex, -1 where there is none.
    """
    errors = np.full(len(samples), np.inf)
    known = np.flatnonzero(truth_21[samples] >= 0)
    if len(known):
        surface, owner = joined(found.source)
        truth, images = owner[truth_21[samples[known]]], owner[found.p2p_21[samples[known]]]
        places, inverse = np.unique(truth, return_inverse=True)
        far = graph_distances(surface, places)[inverse, images]
        straight = np.linalg.norm(surface.vertices[truth] - surface.vertices[images], axis=1)
        errors[known] = np.where(np.isfinite(far), far, straight) / unit
    return errors


@dataclass(frozen=True, eq=False)
class MatchedPair:
    """A generated pair, maps of it, and its truth."""

    maps: tuple[tuple[Correspondence, bool], ...]
    """Each with whether the matcher chose it by itself."""
    truth_21: Int64[np.ndarray, " v2"]
    """True source vertex of each target vertex; -1 where there is none."""
    unknown: Bool[np.ndarray, " v2"]
    """Where nobody knows whether there is one."""
    unit: float
    """Root of the area of the whole source."""


def matched_pair(config: OutcomeConfig, number: int) -> MatchedPair:
    """Make the pair of a number and match it: once freely, then from starts that are wrong."""
    rng = np.random.default_rng([*b"outcomes", config.shapes.seed, number])
    creature, members = family(config.shapes, 2 * number)
    first = Shape(members[0].mesh, members[0].template_ids)
    second = Shape(members[1].mesh, members[1].template_ids)
    strangers, is_plain = rng.uniform(size=2) < (config.strangers, config.plain)
    alike = False
    if strangers:
        stranger, others = family(config.shapes, 2 * number + 1)
        alike = creature.kind in BUILT_ALIKE and stranger.kind in BUILT_ALIKE
        strangers = alike or creature.kind != stranger.kind
    if strangers:
        same = counterparts(creature, stranger) if alike else np.full(stranger.rest.n_vertices, -1)
        second = Shape(others[1].mesh, same[others[1].template_ids])
    unit = float(np.sqrt(total_area(first.mesh)))
    change = turned if is_plain else random_defects
    one, two = change(first, rng), change(second, rng)
    starts: list[np.ndarray | None] = [None]
    if rng.uniform() < config.forced and not strangers:
        wrong = _exchanged if rng.uniform() < 0.7 else _half_turned
        starts.append(wrong(creature, one, two, rng))
    settings = config_from_dict(MatchConfig, {**PRESETS[config.preset], "cache": False})
    maps = []
    for start in starts:  # which grow: the first map brings its alternative
        try:
            found = match_uncalibrated(one.mesh, two.mesh, settings, initial_map=start)
        except Geo3dError:
            if start is None:
                raise
            continue
        if start is None and found.alternative_21 is not None:
            starts.append(found.alternative_21)
        maps.append((found, start is None))
    truth = true_map(creature, one, two)
    # between two kinds, places near joints have counterparts, but nobody knows which
    return MatchedPair(tuple(maps), truth, alike & (two.template_ids < 0), unit)


def _outcomes(config: OutcomeConfig, number: int) -> dict[str, np.ndarray]:
    return outcome_arrays(matched_pair(config, number))


def outcome_arrays(pair: MatchedPair) -> dict[str, np.ndarray]:
    """Return what a file of outcomes holds; see `read_outcomes`."""
    kept = []
    for found, chosen in pair.maps:
        seen = signals(found)
        if seen is None:
            continue
        errors = true_errors(found, seen.samples, pair.truth_21, pair.unit)
        errors[pair.unknown[seen.samples]] = np.nan
        kept.append(Outcome(seen, errors, map_error(found, pair.truth_21, pair.unit), chosen))
    return {
        "local": np.concatenate([o.seen.local for o in kept]).astype(np.float32),
        "whole": np.stack([o.seen.whole for o in kept]).astype(np.float32),
        "errors": np.concatenate([o.errors for o in kept]).astype(np.float32),
        "error": np.array([o.error for o in kept], np.float32),
        "chosen": np.array([o.chosen for o in kept]),
        "counts": np.array([len(o.errors) for o in kept]),
    }


def map_error(found: Correspondence, truth_21: Int64[np.ndarray, " v2"], unit: float) -> float:
    """Return the mean error at some of the target vertices that have a counterpart; those that the
    map leaves out count as mapped like the nearest one.  Infinite where none has."""
    known = np.flatnonzero(truth_21 >= 0)
    if not len(known):
        return float("inf")
    known = known[np.linspace(0, len(known) - 1, min(N_SCORED, len(known))).astype(int)]
    whole = replace(found, p2p_21=filled(found.p2p_21, found.target.vertices))
    return float(true_errors(whole, known, truth_21, unit).mean())


def true_map(creature: Creature, one: Shape, two: Shape) -> Int64[np.ndarray, " v2"]:
    """Return the source vertex at the same place of the creature for each target vertex; -1 where
    the source has none nearby."""
    return _nearest_place(creature, one, two.template_ids, REACH)


def _exchanged(
    creature: Creature, one: Shape, two: Shape, rng: np.random.Generator
) -> Int64[np.ndarray, " v2"]:
    """Return a map that is right but around some bones, where left and right are exchanged."""
    owner = creature.weights.argmax(axis=1)
    chosen = rng.uniform(size=len(creature.bones)) < rng.choice([0.2, 0.5, 1.0])
    order = np.arange(len(owner))
    exchanged = np.where(chosen[owner], creature.symmetry, order)
    wanted = np.where(two.template_ids >= 0, exchanged[two.template_ids.clip(min=0)], 0)
    return _nearest_place(creature, one, wanted, np.inf)


def _half_turned(
    creature: Creature, one: Shape, two: Shape, rng: np.random.Generator
) -> Int64[np.ndarray, " v2"]:
    """Return the map of the creature at rest, turned by half about one of its axes."""
    rest = creature.rest.vertices - creature.rest.vertices.mean(axis=0)
    axes = np.linalg.svd(rest, full_matrices=False)[2]
    about = axes[int(rng.integers(2))]
    turned_rest = 2 * (rest @ about)[:, None] * about - rest
    nearest = np.asarray(KDTree(rest).query(turned_rest)[1])
    wanted = np.where(two.template_ids >= 0, nearest[two.template_ids.clip(min=0)], 0)
    return _nearest_place(creature, one, wanted, np.inf)


def _nearest_place(
    creature: Creature, shape: Shape, ids: Int64[np.ndarray, " n"], reach: float
) -> Int64[np.ndarray, " n"]:
    """Return the vertex of ``shape`` nearest to each vertex of the creature at rest, or -1."""
    rest = creature.rest.vertices
    known = np.flatnonzero(shape.template_ids >= 0)
    gap, near = KDTree(rest[shape.template_ids[known]]).query(rest[ids.clip(min=0)])
    inside = (ids >= 0) & (gap <= reach * np.sqrt(total_area(creature.rest)))
    return np.where(inside, known[near], -1).astype(np.int64)
