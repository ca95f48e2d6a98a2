"""The matching methods in words, for help texts and pages.

The names are those of `shape_matching.methods` (a test compares), which imports torch: what only
lists the methods does without it.
"""

from __future__ import annotations

from collections.abc import Mapping

METHOD_HINTS: Mapping[str, str] = {
    "axiomatic": "no training: many starts, chosen without ground truth, then refined",
    "diffumatch": "as axiomatic, then improved by what was learned from generated shapes",
    "zoomout": "one start, then ZoomOut: the usual baseline",
    "nearest": "nearest neighbours, for shapes that are already aligned",
}
"""What each method does, in half a sentence."""
ABLATION_NAMES = (
    "mask-laplacian",
    "mask-only",
    "zero-shot-no-prior",
    "zero-shot-proper",
    "zero-shot-released",
    "zero-shot",
    "optimised-no-prior",
    "optimised",
)
"""Methods that are there to be compared with: diffumatch from a single start and parts of it, and
features optimised for the pair from the start that axiomatic chooses."""


def methods_help() -> str:
    """Return all methods, with their hints, in one line."""
    named = ", ".join(f"{name} ({hint})" for name, hint in METHOD_HINTS.items())
    return f"{named}; for comparison: {', '.join(ABLATION_NAMES)}"
