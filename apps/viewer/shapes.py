"""The shapes a user brings or picks: read safely, checked, and written down again for a job.

An uploaded file is parsed once, in a limited child process.  What goes on from there, to the panes
and to jobs, is our own copy of its arrays in the order of the file; the upload is not used again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from geo3d.errors import InputError
from geo3d.files import asset, asset_roots, atomic_write_bytes, new_id, slug
from geo3d.mesh.check import check_arrays
from geo3d.mesh.formats.glb import write_glb
from geo3d.mesh.io import load_mesh, save_mesh
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.sandbox import load_untrusted
from shape_matching.evaluate.ground_truth import check_indices, read_one_based
from shape_matching.evaluate.truth import PairTruth
from shape_matching.search.sound import FEWEST_VERTICES, sound

MESH_TYPES = (".obj", ".off", ".ply", ".stl", ".glb")
TRUTH_TYPES = (".txt", ".vts")
EXAMPLES = "shapes"
"""Shipped shapes among the assets: ``pairs.txt``, ``off/<name>.off``, ``corres/<name>.vts``."""
GREY = np.array([196, 201, 208], np.uint8)


@dataclass(frozen=True)
class Shape:
    """A mesh ready for a job: where our copy lies, and what the pages show about it."""

    name: str
    """For people; untrusted text."""
    path: str
    """PLY with the vertices in their original order."""
    view: str
    """GLB for the pane, in one neutral colour unless the mesh has colours."""
    n_vertices: int
    n_faces: int
    defects: tuple[Mapping[str, Any], ...]
    """Severity, code, message and hint of each finding."""
    truth: str = ""
    """Ground-truth file (.vts) that came with an example."""

    @property
    def usable(self) -> bool:
        """Whether nothing was found that would stop a job."""
        return all(defect["severity"] != "error" for defect in self.defects)


def upload_to_shape(upload: Path, scratch: Path) -> Shape:
    """Read an uploaded file in a limited process and keep a copy of its arrays.

    Raises:
        InputError: ``viewer.file_type``, or whatever is wrong with the file.
    """
    if upload.suffix.lower() not in MESH_TYPES:
        raise InputError(
            "viewer.file_type",
            f"{upload.name} is not one of {', '.join(MESH_TYPES)}.",
            "Export the mesh in one of these formats.",
        )
    return keep(load_untrusted(upload), upload.stem, scratch)


def keep(mesh: Mesh, name: str, scratch: Path, truth: str = "") -> Shape:
    """Check ``mesh`` and write our copy and its view below ``scratch``."""
    report = check_arrays(mesh.vertices, mesh.faces)
    folder = scratch / "shapes" / new_id()
    folder.mkdir(parents=True)
    path = save_mesh(mesh, folder / f"{slug(name)}.ply")
    colors = mesh.vertex_colors
    if colors is None:
        colors = np.tile(GREY, (mesh.n_vertices, 1))
    view = save_view(mesh, colors, folder / f"{slug(name)}.glb")
    defects = tuple(
        {"severity": d.severity, "code": d.code, "message": d.message, "hint": d.hint}
        for d in report.defects
    )
    defects += _too_small(mesh, name)
    return Shape(name, str(path), str(view), mesh.n_vertices, mesh.n_faces, defects, truth)


def _too_small(mesh: Mesh, name: str) -> tuple[Mapping[str, Any], ...]:
    """Return what the matcher would say of a shape that is too small for it.

    Of shapes with several coarse parts it matches points on their surfaces.
    """
    parts = sound(mesh).parts
    most = parts[0].mesh.n_vertices
    if len(parts) > 1 or most >= FEWEST_VERTICES:
        return ()
    what = f"{name} has {most} vertices; matching needs {FEWEST_VERTICES}."
    hint = "Subdivide the mesh, or sample more points."
    return ({"severity": "error", "code": "match.too_small", "message": what, "hint": hint},)


def save_view(mesh: Mesh, colors: UInt8[np.ndarray, "v 3"], path: Path) -> Path:
    """Write a GLB for the panes in ``colors`` (sRGB), matt under their lamps."""
    return atomic_write_bytes(path, write_glb(replace(mesh, vertex_colors=colors), matt=True))


def example_pairs() -> dict[str, tuple[str, str]]:
    """Return the shipped pairs by title, in the order of their list; none if they are not here."""
    root = _examples_root()
    if root is None:
        return {}
    rows = (line.split() for line in (root / "pairs.txt").read_text("utf-8").splitlines())
    return {f"{row[0]} → {row[1]}": (row[0], row[1]) for row in rows if len(row) == 2}


def example_shape(name: str, scratch: Path) -> Shape:
    """Return a shipped shape by name."""
    root = asset(EXAMPLES)
    truth = root / "corres" / f"{name}.vts"
    mesh = load_mesh(root / "off" / f"{name}.off")
    return keep(mesh, name, scratch, str(truth) if truth.is_file() else "")


def read_truth(files: Sequence[Path], source: Shape, target: Shape) -> PairTruth:
    """Read ground truth: one .txt (0-based source vertex per target vertex), or two .vts (1-based).

    Raises:
        InputError: ``viewer.truth_files``, ``viewer.truth_length``, or what is wrong with a file.
    """
    kinds = sorted(path.suffix.lower() for path in files)
    if kinds == [".txt"]:
        return _truth_from_map(files[0], source, target)
    if kinds == [".vts", ".vts"]:
        return _truth_from_lists(files, source, target)
    raise InputError(
        "viewer.truth_files",
        f"Ground truth cannot be read from {len(files)} file(s) of type {', '.join(kinds)}.",
        "Give one .txt with a 0-based source vertex per target vertex, or one .vts per shape.",
    )


def _truth_from_map(path: Path, source: Shape, target: Shape) -> PairTruth:
    from shape_matching.map_files import load_p2p

    images = load_p2p(path)
    if len(images) != target.n_vertices:
        raise InputError(
            "viewer.truth_length",
            f"{path.name} has {len(images)} lines, the target has {target.n_vertices} vertices.",
            "A .txt map has one line per target vertex: the 0-based vertex of the source.",
        )
    known = np.flatnonzero(images >= 0)
    check_indices(images[known], source.n_vertices, path.name)
    return PairTruth(images[known], known)


def _truth_from_lists(files: Sequence[Path], source: Shape, target: Shape) -> PairTruth:
    first, second = files
    if first.stem == target.name or second.stem == source.name:
        first, second = second, first
    lists = []
    for path, shape in ((first, source), (second, target)):
        indices = read_one_based(path)
        check_indices(indices, shape.n_vertices, path.name)
        lists.append(indices)
    if len(lists[0]) != len(lists[1]):
        raise InputError(
            "viewer.truth_length",
            f"{first.name} lists {len(lists[0])} points, {second.name} {len(lists[1])}.",
            "Both files must list the same points in the same order.",
        )
    return PairTruth(lists[0], lists[1])


def _examples_root() -> Path | None:
    return next(
        (r / EXAMPLES for r in asset_roots() if (r / EXAMPLES / "pairs.txt").is_file()), None
    )
