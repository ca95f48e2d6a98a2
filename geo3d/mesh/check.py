"""Looking for defects in a mesh file or in arrays; nothing is changed and nothing is raised.

Notation: v vertices, f faces; extent is the diagonal of the bounding box in mesh units.  Codes,
severities and repairs are listed in docs/errors.md.  An *error* makes the mesh unusable, a
*warning* may spoil a computation, an *info* is good to know.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from geo3d.errors import Geo3dError, printable
from geo3d.mesh.findings import Defect, Severity, find
from geo3d.mesh.io import read_raw

NOTE_SEVERITY: dict[str, Severity] = {
    "mesh_file.polygons": "info",
    "mesh_file.stl_merged": "info",
}


@dataclass(frozen=True)
class Report:
    """What was found in one mesh."""

    name: str
    """The file, or "mesh"."""
    format: str
    """obj, off, ply, stl, glb, "arrays" or "" if the file could not be read."""
    n_vertices: int
    """Vertices."""
    n_faces: int
    """Faces."""
    defects: tuple[Defect, ...]
    """Errors first, then warnings, then infos."""

    @property
    def healthy(self) -> bool:
        """Whether there is no error."""
        return not any(defect.severity == "error" for defect in self.defects)

    def codes(self) -> tuple[str, ...]:
        """Return the codes of all defects."""
        return tuple(defect.code for defect in self.defects)

    def summary(self) -> str:
        """Return the report as lines of text."""
        name = printable(self.name)
        head = f"{name}: {self.n_vertices:,} vertices, {self.n_faces:,} faces"
        if self.format:
            head += f" ({self.format})"
        lines = [head if self.format else f"{name}: cannot be read"]
        for defect in self.defects:
            lines.append(f"  {defect.severity:<7} {defect.code}: {printable(defect.message)}")
            if defect.examples:
                shown = ", ".join(map(str, defect.examples))
                more = " ..." if defect.count > len(defect.examples) else ""
                lines.append(f"          ids: {shown}{more}")
            if defect.hint:
                lines.append(f"          hint: {defect.hint}")
        if not self.defects:
            lines.append("  no defects")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON-ready mapping."""
        return {**asdict(self), "healthy": self.healthy}


def check_file(path: str | os.PathLike[str], *, self_intersections: bool = False) -> Report:
    """Read a file and report its defects, including those that keep it from being read.

    ``self_intersections`` adds the slow search for faces that pass through each other.
    """
    name = os.fspath(path)
    try:
        raw = read_raw(path)
    except Geo3dError as error:
        defect = Defect(error.code, "error", 1, (), error.message, error.hint)
        return Report(name, "", 0, 0, (defect,))
    report = check_arrays(raw.vertices, raw.faces, self_intersections=self_intersections)
    notes = [_from_note(note) for note in raw.notes]
    return Report(
        name, raw.format, len(raw.vertices), len(raw.faces), _sorted([*notes, *report.defects])
    )


def check_arrays(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    *,
    self_intersections: bool = False,
    name: str = "mesh",
) -> Report:
    """Report the defects of a mesh given as arrays, whatever they hold.

    ``self_intersections`` adds the slow search for faces that pass through each other; ``name``
    heads the summary.
    """
    found = find(vertices, faces, self_intersections)
    return Report(name, "arrays", len(vertices), len(faces), _sorted(found))


def _from_note(note: str) -> Defect:
    code, _, message = note.partition(": ")
    return Defect(code, NOTE_SEVERITY.get(code, "warning"), 1, (), message, "")


def _sorted(defects: list[Defect]) -> tuple[Defect, ...]:
    rank = ("error", "warning", "info")
    return tuple(sorted(defects, key=lambda defect: rank.index(defect.severity)))
