"""The result of matching: a dense map between two surfaces that knows its directions.

Notation: shape 1 is the source (n1 vertices), shape 2 the target (n2 vertices).  ``p2p_21`` (n2,)
holds for every target vertex its source vertex, ``p2p_12`` (n1,) the reverse; ``fmap_12`` carries
spectral coefficients from source to target.  Indices are 0-based.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from geo3d.errors import FileFormatError, InputError, ShapeError
from geo3d.files import atomic_path, atomic_write_text
from geo3d.mesh.mesh import Mesh
from geo3d.npz import read_npz

MAX_MAP_BYTES = 256 * 2**20


@dataclass(frozen=True, eq=False)
class Correspondence:
    """A dense correspondence between ``source`` and ``target``."""

    source: Mesh
    target: Mesh
    p2p_21: Int64[np.ndarray, " n2"]
    """Source vertex of every target vertex."""
    p2p_12: Int64[np.ndarray, " n1"]
    """Target vertex of every source vertex."""
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

    def transfer(self, values: np.ndarray) -> np.ndarray:
        """Carry per-vertex values (n1, ...) of the source (colours, labels, texture coordinates)
        to the target (n2, ...).

        Raises:
            ShapeError: ``correspondence.bad_values`` when the first axis is not the source's.
        """
        if len(values) != self.source.n_vertices:
            raise ShapeError(
                "correspondence.bad_values",
                f"{len(values)} values for a source of {self.source.n_vertices} vertices.",
                "Values are carried from the source to the target; swap them for the reverse.",
            )
        return np.asarray(values)[self.p2p_21]

    def save(self, path: str | Path) -> Path:
        """Write ``.txt`` (p2p_21, one 0-based source index per target vertex) or ``.npz`` (all).

        Raises:
            InputError: ``correspondence.unknown_format``.
        """
        path = Path(path)
        if path.suffix == ".txt":
            return atomic_write_text(path, "".join(f"{i}\n" for i in self.p2p_21))
        if path.suffix != ".npz":
            raise InputError(
                "correspondence.unknown_format", f"Cannot write {path.name}.", "Use .txt or .npz."
            )
        arrays: dict[str, Any] = {
            name: getattr(self, name) for name in ("p2p_21", "p2p_12", "confidence")
        }
        if self.fmap_12 is not None:
            arrays["fmap_12"] = self.fmap_12
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
        return path


def load_p2p(path: str | Path) -> Int64[np.ndarray, " n2"]:
    """Read p2p_21 from a ``.txt`` or ``.npz`` file as written by `Correspondence.save`.

    Raises:
        FileFormatError: ``correspondence.bad_map`` when it is not a list of indices >= 0.
        InputError: ``correspondence.missing`` when there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("correspondence.missing", f"There is no map file {path}.", "")
    if path.stat().st_size > MAX_MAP_BYTES:
        raise _bad_map(path, "it is too large")
    try:
        if path.suffix == ".npz":
            values = read_npz(path, ["p2p_21"], MAX_MAP_BYTES)["p2p_21"]
        else:
            values = np.array(path.read_text(encoding="utf-8").split(), dtype=np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise _bad_map(path, str(error)) from error
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or not len(values):
        raise _bad_map(path, f"it holds {values.dtype} {values.shape}")
    values = values.astype(np.int64)
    if values.min() < 0:
        raise _bad_map(path, "it has negative indices")
    return values


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


def _bad_map(path: Path, why: str) -> FileFormatError:
    return FileFormatError(
        "correspondence.bad_map",
        f"{path.name} is not a vertex map: {why}.",
        "A map file has one 0-based source index per target vertex, or is an .npz with p2p_21.",
    )
