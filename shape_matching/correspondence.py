"""The result of matching: a dense map between two surfaces that knows its directions.

Notation: shape 1 is the source (n1 vertices), shape 2 the target (n2 vertices).  ``p2p_21`` (n2,)
holds for every target vertex its source vertex, ``p2p_12`` (n1,) the reverse; ``fmap_12`` carries
spectral coefficients from source to target.  Indices are 0-based; -1 means no counterpart.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.spatial import KDTree

from geo3d.errors import ShapeError
from geo3d.mesh.mesh import Mesh
from shape_matching.map_files import save_p2p


@dataclass(frozen=True, eq=False)
class Correspondence:
    """A dense correspondence between ``source`` and ``target``."""

    source: Mesh
    target: Mesh
    p2p_21: Int64[np.ndarray, " n2"]
    """Source vertex of every target vertex; -1 where it has no counterpart."""
    p2p_12: Int64[np.ndarray, " n1"]
    """Target vertex of every source vertex; -1 where it has no counterpart."""
    fmap_12: Float[np.ndarray, "k2 k1"] | None
    """Functional map; None when the method has none."""
    confidence: Float[np.ndarray, " n2"]
    """Per target vertex, 1 where going to the source and back returns to the vertex, towards 0 as
    the return lands further away (see `cycle_confidence`)."""
    scores: dict[str, float] = field(default_factory=dict)
    """What the choice among hypotheses was based on."""
    ambiguous: bool = False
    """Whether a clearly different map explains the shapes nearly as well (a symmetry, say)."""
    notes: tuple[str, ...] = ()
    """What the user should know: repairs, decimation, ambiguity."""
    probability: float | None = None
    """Calibrated probability that the map is right (mean error below 5 % of the root of the area);
    None where it was not estimated."""
    overlap_1: Bool[np.ndarray, " n1"] | None = None
    """Whether each source vertex has a counterpart on the target; None where all have."""
    overlap_2: Bool[np.ndarray, " n2"] | None = None
    """Whether each target vertex has a counterpart on the source; None where all have."""
    alternative_21: Int64[np.ndarray, " n2"] | None = None
    """The best map that differs from ``p2p_21`` in a part, as the search found it, unrefined (see
    `shape_matching.search.choice`); None where there is none."""

    def without_uncovered(self) -> Correspondence:
        """Return the correspondence with -1 for the vertices that have no counterpart."""
        if self.overlap_1 is None or self.overlap_2 is None:
            return self
        return replace(
            self,
            p2p_21=np.where(self.overlap_2, self.p2p_21, -1),
            p2p_12=np.where(self.overlap_1, self.p2p_12, -1),
            confidence=np.where(self.overlap_2, self.confidence, 0.0),
        )

    def through(self, landmarks: Int64[np.ndarray, "p 2"]) -> Correspondence:
        """Return the correspondence with the rows (source vertex, target vertex) in it, both ways.

        Of rows that contradict each other the last one holds.
        """
        changed = {
            name: None if array is None else array.copy()
            for name, array in (
                ("p2p_21", self.p2p_21),
                ("p2p_12", self.p2p_12),
                ("overlap_1", self.overlap_1),
                ("overlap_2", self.overlap_2),
            )
        }
        one, two = landmarks.T
        for name, at, value in (
            ("p2p_21", two, one),
            ("p2p_12", one, two),
            ("overlap_1", one, True),
            ("overlap_2", two, True),
        ):
            array = changed[name]
            if array is not None:
                array[at] = value
        return replace(self, **changed)

    def transfer(self, values: np.ndarray) -> np.ndarray:
        """Carry per-vertex values (n1, ...) of the source (colours, labels, texture coordinates)
        to the target (n2, ...).

        Target vertices without counterpart get NaN, or 0 where the values are whole numbers.

        Raises:
            ShapeError: ``correspondence.bad_values`` when the first axis is not the source's.
        """
        if len(values) != self.source.n_vertices:
            raise ShapeError(
                "correspondence.bad_values",
                f"{len(values)} values for a source of {self.source.n_vertices} vertices.",
                "Values are carried from the source to the target; swap them for the reverse.",
            )
        carried = np.asarray(values)[self.p2p_21]
        if self.overlap_2 is not None:
            is_float = np.issubdtype(carried.dtype, np.floating)
            carried[~self.overlap_2] = np.nan if is_float else 0
        return carried

    def save(self, path: str | Path, one_based: bool = False) -> Path:
        """Write ``.txt`` or ``.npy`` (p2p_21), ``.npz`` or ``.mat`` (all).

        Args:
            one_based: whether vertices are counted from 1 in the file, as MATLAB does.

        Raises:
            InputError: ``correspondence.unknown_format``.
        """
        more = {"p2p_12": self.p2p_12, "confidence": self.confidence}
        if self.fmap_12 is not None:
            more["fmap_12"] = self.fmap_12
        if self.alternative_21 is not None:
            more["p2p_21_alternative"] = self.alternative_21
        if self.overlap_1 is not None and self.overlap_2 is not None:
            more |= {"overlap_1": self.overlap_1, "overlap_2": self.overlap_2}
        return save_p2p(path, self.p2p_21, more, one_based)


def filled(
    p2p: Int64[np.ndarray, " n"], vertices: Float[np.ndarray, "n 3"]
) -> Int64[np.ndarray, " n"]:
    """Return a map in which vertices without counterpart, -1, take that of the nearest with one.

    Maps without -1, or of nothing but -1, are returned as they are.
    """
    known = np.flatnonzero(p2p >= 0)
    if len(known) in (0, len(p2p)):
        return p2p
    return p2p[known[np.asarray(KDTree(vertices[known]).query(vertices)[1])]]


CONFIDENCE_SCALE = 0.05
"""Return distance, in units of sqrt(area of the target), at which the confidence is exp(-1/2)."""


def cycle_confidence(
    target: Mesh, p2p_21: np.ndarray, p2p_12: np.ndarray, area: float
) -> Float[np.ndarray, " n2"]:
    """Return exp(-d^2 / 2 s^2), d the straight distance from each target vertex to where it
    returns after going to the source and back, s = 0.05 sqrt(area)."""
    vertices = target.vertices.astype(np.float64)
    gap = np.linalg.norm(vertices[p2p_12[p2p_21]] - vertices, axis=1) / np.sqrt(area)
    return np.exp(-0.5 * (gap / CONFIDENCE_SCALE) ** 2)
