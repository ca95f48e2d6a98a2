"""What a run's numbers come to: the few that matter of each verb, and what they mean in a sentence.

Numbers are read from files, so each is looked at before it is used; what is not there is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from apps.report.records import RunRecord

WRONG, SURE = 0.6, 0.8
"""Probabilities of a map below which it is called probably wrong, and doubtful."""
CLOSE_M = 0.3
"""Median error of depth below which a scene is said to follow its layout."""
_FEW = 5
_WALL = 0.5
"""Probability below which an image is called no wall."""


class Fact(NamedTuple):
    """A number for people."""

    label: str
    value: str
    meaning: str
    """Its unit, and which way is good."""


class Verdict(NamedTuple):
    """What a run came to."""

    look: str
    """good, info, warning, bad or neutral."""
    text: str


def number(value: Any) -> str:
    """Return a number, or anything else, as people read it.

    >>> number(12345), number(0.123456), number(True), number(None)
    ('12,345', '0.1235', 'yes', '')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return "" if value is None else str(value)


def main_facts(run: RunRecord) -> list[Fact]:
    """Return the few numbers that tell most."""
    numbers = _inner(run)
    facts = [
        Fact(label, number(value) + unit, meaning)
        for label, key, unit, meaning in _FACTS.get(run.verb, ())
        if (value := _at(numbers, key)) is not None
    ]
    return (
        facts
        or [
            Fact(key.replace("_", " "), number(value), "")
            for key, value in numbers.items()
            if isinstance(value, int | float)
        ][:_FEW]
    )


def verdict(run: RunRecord) -> Verdict:
    """Return what the run came to."""
    if run.status != "done":
        said = {
            "failed": f"It failed: {run.message or 'log.txt tells more'}",
            "cancelled": "It was cancelled; --resume goes on with it.",
            "interrupted": "It was interrupted; --resume goes on with it.",
        }
        look = "bad" if run.status == "failed" else "warning"
        return Verdict(look, said.get(run.status, f"It is {run.status}."))
    judge = _JUDGES.get(run.verb)
    found = judge(_inner(run)) if judge else None
    return found or Verdict("neutral", "It is done.")


def _inner(run: RunRecord) -> Mapping[str, Any]:
    """Return the numbers, those of the first thing that was made among them."""
    numbers = dict(run.numbers)
    for key in ("objects", "pictures"):
        rows = numbers.get(key)
        if isinstance(rows, list) and rows and isinstance(rows[0], Mapping):
            numbers |= rows[0]
    return numbers


def _at(numbers: Mapping[str, Any], key: str) -> Any:
    """Return a number by its dotted key; of a mapping of numbers the sum, of a list its length."""
    value: Any = numbers
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        return sum(v for v in value.values() if isinstance(v, int | float))
    return len(value) if isinstance(value, list) else value


_FACTS: Mapping[str, tuple[tuple[str, str, str, str], ...]] = {
    "match": (
        ("Probability", "probability", "", "That the mean error is below 5 % of √area; 1 is best"),
        ("Mean confidence", "mean_confidence", "", "Of a vertex: probability to be within 5 %"),
        ("Target vertices", "target_vertices", "", "Matched"),
        ("Shapes", "shapes", "", "In the collection"),
        ("Pairs", "pairs", "", "Matched"),
        ("Cycle error", "cycle_error", "", "Of cycles of three maps, % of √area; 0 is best"),
        ("Matching", "seconds", " s", "Without loading"),
    ),
    "segment": (
        ("Components", "betti0", "", "Pieces of mortar; 1 is a whole wall"),
        ("Holes", "betti1", "", "Bricks that mortar goes all around"),
        ("Repairs", "repair.changes", "", "Changes that --repair made"),
        ("Mortar", "mortar_fraction", "", "Share of the pixels"),
        ("Wall", "wall_probability", "", "How probable it is that the image shows one"),
        ("Images", "pictures", "", "Segmented"),
    ),
    "generate": (
        ("Faces", "faces", "", "Of the mesh"),
        ("Gaussians", "gaussians", "", ""),
        ("Sampling and decoding", "seconds", " s", "All stages, loading among them"),
        ("Passes", "calls", "", "Through the two flow networks; few are the point of a student"),
    ),
    "scene": (
        ("Depth error", "depth_error_median_m", " m", "Median, scene against layout; 0 is best"),
        ("Semantic mIoU", "miou", "", "Classes seen against the layout's; 1 is best"),
        ("Build", "build_seconds", " s", "Without loading and export"),
        ("Points", "points", "", ""),
    ),
    "scenes": (
        ("Scenes", "scenes", "", ""),
        ("Done", "done", "", ""),
        ("Failed", "failed", "", "0 is best"),
    ),
    "evaluate": (
        ("Mean error ×100", "error", "", "Geodesic, over √area; 0 is best"),
        ("Median error ×100", "median_error", "", ""),
        ("Pairs", "pairs", "", ""),
        ("Failed", "failed", "", "0 is best"),
    ),
    "demo": (
        ("Methods", "parts", "", "Shown, each in a run of its own"),
        ("Seconds", "seconds", " s", "Of all four"),
    ),
}


def _judge_match(numbers: Mapping[str, Any]) -> Verdict | None:
    probability, notes = numbers.get("probability"), numbers.get("notes")
    if "pairs" in numbers:
        return _judge_counts(numbers)
    if not isinstance(probability, int | float):
        doubts = [str(note) for note in notes] if isinstance(notes, list) else []
        text = "How probable it is that this map is right is not known; look at its confidence"
        return Verdict("warning", " ".join([f"{text}.", *doubts[:2]]))
    told = f"with probability {probability:.0%} the mean error is below 5 % of the root of the area"
    if probability < WRONG:
        return Verdict("bad", f"Probably wrong: only {told}. Three landmarks settle most doubts.")
    if numbers.get("ambiguous"):
        return Verdict("warning", f"Ambiguous: another map is nearly as good, though {told}.")
    if probability < SURE:
        return Verdict("warning", f"Doubtful: {told}.")
    return Verdict("good", f"Probably right: {told}.")


def _judge_segment(numbers: Mapping[str, Any]) -> Verdict | None:
    pieces, holes = numbers.get("betti0"), numbers.get("betti1")
    if not isinstance(pieces, int) or not isinstance(holes, int):
        return None
    wall = numbers.get("wall_probability")
    if isinstance(wall, int | float) and wall < _WALL:
        text = f"This does not look like a wall ({wall:.0%} sure that it is one)"
        return Verdict("bad", f"{text}: the mask may mean nothing.")
    if pieces == 1:
        return Verdict("good", f"The mortar is in one piece and goes all around {holes} bricks.")
    text = f"The mortar is in {pieces} pieces and goes all around {holes} bricks"
    return Verdict("warning", f"{text}; a whole wall is one piece (repair joins them).")


def _judge_scene(numbers: Mapping[str, Any]) -> Verdict | None:
    error = numbers.get("depth_error_median_m")
    if not isinstance(error, int | float):
        return None
    if error < CLOSE_M:
        return Verdict("good", f"The scene follows its layout: to {error:.2g} m in the median.")
    text = f"The scene is {error:.2g} m from its layout in the median"
    return Verdict("warning", f"{text}: too short a build (preset smoke), or a hard layout.")


def _judge_generate(numbers: Mapping[str, Any]) -> Verdict | None:
    objects, failed = numbers.get("objects"), numbers.get("failed") or []
    if not isinstance(objects, list):
        return None
    if failed:
        return Verdict("warning", f"{len(objects)} objects were made, {len(failed)} images failed.")
    many = "One object was" if len(objects) == 1 else f"{len(objects)} objects were"
    return Verdict("good", f"{many} made of the image; turn it to see all sides.")


def _judge_counts(numbers: Mapping[str, Any]) -> Verdict | None:
    failed = _at(numbers, "failed")
    if not isinstance(failed, int):
        return None
    return Verdict("warning", f"{failed} failed.") if failed else Verdict("good", "None failed.")


_JUDGES: Mapping[str, Callable[[Mapping[str, Any]], Verdict | None]] = {
    "match": _judge_match,
    "segment": _judge_segment,
    "scene": _judge_scene,
    "generate": _judge_generate,
    "scenes": _judge_counts,
    "evaluate": _judge_counts,
}
