"""Named repairs of broken meshes; each says what it did and returns maps from old ids to new ones.

Notation: a vertex map has an entry per old vertex, its new index or -1 if it was removed; a face
map likewise.  Nothing is repaired unless asked for, in the order asked for.  Usual orders::

    drop_bad_faces, drop_non_finite, drop_degenerate, drop_duplicate_faces, drop_unreferenced
    merge_duplicate_vertices, drop_degenerate, cut_non_manifold_edges, orient_consistently
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from geo3d.errors import ConfigError
from geo3d.mesh import repair_steps as steps
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.raw import RawMesh

logger = logging.getLogger(__name__)

REPAIRS: dict[str, Callable[[steps.State], steps.Change]] = {
    "drop_non_finite": steps.drop_non_finite,
    "drop_bad_faces": steps.drop_bad_faces,
    "drop_degenerate": steps.drop_degenerate,
    "drop_duplicate_faces": steps.drop_duplicate_faces,
    "merge_duplicate_vertices": steps.merge_duplicate_vertices,
    "drop_unreferenced": steps.drop_unreferenced,
    "keep_largest_component": steps.keep_largest_component,
    "orient_consistently": steps.orient_consistently,
    "orient_outward": steps.orient_outward,
    "split_non_manifold_vertices": steps.split_non_manifold_vertices,
    "cut_non_manifold_edges": steps.cut_non_manifold_edges,
    "fill_small_holes": steps.fill_small_holes,
}


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repaired mesh and where everything went."""

    mesh: Mesh
    vertex_map: Int[np.ndarray, " v_old"]
    """New index of each old vertex, or -1."""
    face_map: Int[np.ndarray, " f_old"]
    """New index of each old face, or -1."""
    log: tuple[str, ...]
    """One line per repair, with counts."""


def repair(mesh: Mesh | RawMesh, names: Sequence[str], name: str | None = None) -> Repaired:
    """Apply the named repairs in order; ``name`` names a mesh made from a `RawMesh`.

    Raises:
        ConfigError: ``repair.unknown_name``.
        MeshError: ``repair.needs_sound_faces`` if a repair cannot work before another one;
            ``mesh.*`` if the result still is not a valid mesh.
    """
    require_known(names)
    state = steps.State(np.array(mesh.vertices), mesh.faces.astype(np.int64))
    vertex_map, face_map = np.arange(len(state.vertices)), np.arange(len(state.faces))
    colors, log = mesh.vertex_colors, []
    for step in names:
        change = REPAIRS[step](state)
        vertex_map = _compose(vertex_map, change.vertex_map)
        face_map = _compose(face_map, _inverse(change.face_source, len(state.faces)))
        colors = None if colors is None else colors[change.vertex_source]
        state = change.state
        log.append(f"{step}: {change.message}")
        logger.info(log[-1])
    name = name or (mesh.name if isinstance(mesh, Mesh) else "mesh")
    return Repaired(
        Mesh(state.vertices, state.faces, colors, name), vertex_map, face_map, tuple(log)
    )


def require_known(names: Sequence[str]) -> None:
    """Refuse names that are no repairs.

    Raises:
        ConfigError: ``repair.unknown_name``.
    """
    for name in names:
        if name not in REPAIRS:
            near = difflib.get_close_matches(name, REPAIRS, n=1)
            guess = f" - did you mean '{near[0]}'?" if near else "."
            raise ConfigError(
                "repair.unknown_name",
                f"There is no repair '{name}'{guess}",
                f"Known: {', '.join(REPAIRS)}.",
            )


def _compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Follow ``first``, then ``second``; -1 stays -1."""
    result = np.full(len(first), -1)
    kept = first >= 0
    result[kept] = second[first[kept]]
    return result


def _inverse(source: np.ndarray, n_old: int) -> np.ndarray:
    result = np.full(n_old, -1)
    kept = np.flatnonzero(source >= 0)
    result[source[kept]] = kept
    return result
