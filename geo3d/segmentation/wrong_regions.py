"""Components and holes that a mask and its truth do not share: which, where, and drawn.

As in `geo3d.topology.metrics.betti_matching_errors`: a component of the prediction and one of the
truth are the same if they lie in one component of their union, and each is matched once, the
largest of each; holes are the same if they overlap, as many as can be matched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, UInt8
from scipy import ndimage, sparse
from scipy.sparse.csgraph import maximum_bipartite_matching

from geo3d.topology.grids import label_components

_MARGIN = 24
_SIDE = 192
"""Of a drawn region, pixels."""
RIGHT, ADDED, MISSED, NEITHER = (90, 90, 90), (213, 94, 0), (0, 114, 255), (235, 235, 235)
_FRAME = (204, 60, 150)


@dataclass(frozen=True)
class WrongRegion:
    """A component or hole that only one of two masks has."""

    kind: Literal["false component", "missed component", "false hole", "missed hole"]
    pixels: int
    box: tuple[tuple[int, int], ...]
    """First and last row, column (3D: slice first) of it, the last one left out."""


def wrong_regions(
    predicted: Bool[np.ndarray, "*space"], true: Bool[np.ndarray, "*space"]
) -> list[WrongRegion]:
    """Return all of them, the largest first."""
    union = label_components(predicted | true, corners=True)[0]
    sides = [label_components(mask, corners=True) for mask in (predicted, true)]
    groups = [_group_of(labels, count, union) for labels, count in sides]
    shared = set(groups[0].values()) & set(groups[1].values())
    found: list[WrongRegion] = []
    for (labels, count), group, word in zip(sides, groups, ("false", "missed"), strict=True):
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        taken: set[int] = set()
        for label in sorted(group, key=lambda n: -sizes[n]):
            if group[label] in shared and group[label] not in taken:
                taken.add(group[label])
                del group[label]
        found += _listed(labels, set(group), f"{word} component")
    found += _wrong_holes(predicted, true)
    return sorted(found, key=lambda region: -region.pixels)


def draw_region(
    predicted: Bool[np.ndarray, "*space"], true: Bool[np.ndarray, "*space"], region: WrongRegion
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the surroundings of a region: right, false and missed pixels, the region framed.

    Of a volume the slice through its middle.
    """
    box = region.box
    if predicted.ndim == 3:
        middle = (box[0][0] + box[0][1]) // 2
        predicted, true, box = predicted[middle], true[middle], box[1:]
    window = tuple(
        slice(max(0, first - _MARGIN), min(n, last + _MARGIN))
        for (first, last), n in zip(box, predicted.shape, strict=True)
    )
    one, two = predicted[window], true[window]
    picture = np.empty((*one.shape, 3), dtype=np.uint8)
    picture[...] = NEITHER
    for chosen, color in ((one & two, RIGHT), (one & ~two, ADDED), (two & ~one, MISSED)):
        picture[chosen] = color
    scale = max(1, _SIDE // max(one.shape))
    picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    corners = [
        ((first - w.start) * scale, (last - w.start) * scale - 1)
        for (first, last), w in zip(box, window, strict=True)
    ]
    (top, bottom), (left, right) = corners
    picture[[top, bottom], left : right + 1] = _FRAME
    picture[top : bottom + 1, [left, right]] = _FRAME
    step = max(1, -(-max(picture.shape[:2]) // (2 * _SIDE)))
    return np.ascontiguousarray(picture[::step, ::step])


def _group_of(labels: Int[np.ndarray, "*space"], count: int, union: np.ndarray) -> dict[int, int]:
    """Return the number of the union's component that each component lies in."""
    first = np.unique(labels, return_index=True)
    return {int(n): int(union.ravel()[at]) for n, at in zip(*first, strict=True) if n}


def _wrong_holes(predicted: np.ndarray, true: np.ndarray) -> list[WrongRegion]:
    inside = (slice(1, -1),) * predicted.ndim
    sides = [label_components(~np.pad(m, 1), corners=False)[0] for m in (predicted, true)]
    # Label 1 is the outside.
    one, two = (np.maximum(side - 1, 0)[inside] for side in sides)
    both = (one > 0) & (two > 0)
    shape = (int(one.max()) + 1, int(two.max()) + 1)
    ones = np.ones(np.count_nonzero(both))
    graph = sparse.coo_array((ones, (one[both], two[both])), shape=shape).tocsr()
    partner = maximum_bipartite_matching(graph, perm_type="column")
    first = {n for n in range(1, shape[0]) if partner[n] < 0}
    second = set(range(1, shape[1])) - {int(n) for n in partner if n >= 0}
    return [*_listed(one, first, "false hole"), *_listed(two, second, "missed hole")]


def _listed(labels: np.ndarray, chosen: set[int], kind: str) -> list[WrongRegion]:
    boxes = ndimage.find_objects(labels)
    sizes = np.bincount(labels.ravel())
    return [
        WrongRegion(kind, int(sizes[n]), tuple((s.start, s.stop) for s in boxes[n - 1]))  # type: ignore[arg-type]
        for n in sorted(chosen)
    ]
