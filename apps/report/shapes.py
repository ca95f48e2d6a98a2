"""The shapes of a run for a page: meshes, points and splats, few enough to be turned by anybody.

Notation: v vertices (or points, or splats), f faces.  Everything is turned to y up.

Source: Kerbl et al., "3D Gaussian Splatting" (2023), for the columns of splats.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.spatial import KDTree

from apps.report.files import own_files
from geo3d.errors import FileFormatError, Geo3dError
from geo3d.mesh.formats.ply import read_columns
from geo3d.mesh.io import load_mesh, open_regular
from geo3d.mesh.mesh import Limits, Mesh
from geo3d.mesh.simplify import with_faces

_log = logging.getLogger(__name__)

MOST_MODELS = 6
FACES, POINTS = 160_000, 160_000
"""Of all models of a run together."""
COLOURS = "Colours"
MATCHED, CONFIDENCE = "Matched colours", "Confidence"
_GREY = (196, 201, 208)
_SH_C0 = 0.28209479177387814
_SPLATS = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2")
_TURNS = ("rot_0", "rot_1", "rot_2", "rot_3")
_FAINT = 1 / 255
_ORDER = (".glb", ".ply", ".obj", ".off", ".stl")
"""Of several files of one shape the first of these is shown."""
_DOUBLES = {"gaussians.glb": "gaussians.ply", "mesh_textured.glb": "mesh.glb"}
"""Files for other programs, and what is shown in their place."""


@dataclass(frozen=True, eq=False)
class Splats:
    """What Gaussians have besides places and colours."""

    scales: Float[np.ndarray, "v 3"]
    """Standard deviations along their axes."""
    turns: Float[np.ndarray, "v 4"]
    """Unit quaternions (w, x, y, z)."""
    opacities: Float[np.ndarray, " v"]


@dataclass(frozen=True, eq=False)
class Scalars:
    """A number per vertex, to be seen through a colour map."""

    values: Float[np.ndarray, " v"]
    """NaN where it is unknown."""
    low: float
    high: float
    """Ends of the colour map at first."""
    map: str = "viridis"
    """A colour map of panes.js."""
    unit: str = ""
    about: str = ""
    """What it is, in a sentence."""


@dataclass(frozen=True, eq=False)
class Model:
    """Something that a pane shows."""

    title: str
    """For people; untrusted text."""
    points: Float[np.ndarray, "v 3"]
    colors: Mapping[str, UInt8[np.ndarray, "v 3"]]
    """By what they show; at least one."""
    faces: Int[np.ndarray, "f 3"] | None = None
    splats: Splats | None = None
    matches: Int[np.ndarray, " v"] | None = None
    """Of each vertex its vertex in the group's first model, -1 without; None for all others."""
    scalars: Mapping[str, Scalars] = field(default_factory=dict)
    """Numbers of its vertices by name."""


@dataclass(frozen=True, eq=False)
class Group:
    """Models side by side, that are turned together."""

    models: Sequence[Model]
    one_frame: bool = True
    """Whether they have one coordinate system, so that one camera shows the same place."""
    notes: Sequence[str] = field(default=())
    about: Mapping[str, str] = field(default_factory=dict)
    """What colours mean, by their name."""


def shapes_of(run: Path, verb: str) -> Group | None:
    """Return the shapes of a run; None if it has none that can be read."""
    if verb == "match" and (pair := _matched_pair(run)) is not None:
        return pair
    files = _files(run)
    models: list[Model] = []
    notes = []
    for path in files[:MOST_MODELS]:
        try:
            models.append(read_model(path, is_down=verb == "scene"))
        except Geo3dError as error:
            notes.append(f"{path.name} is not shown: {error.message}")
    if len(files) > MOST_MODELS:
        notes.append(f"{len(files) - MOST_MODELS} more lie in outputs/.")
    if not models:
        return None
    meshes = sum(model.faces is not None for model in models)
    others = len(models) - meshes
    slim = [_slim(m, FACES // max(meshes, 1), POINTS // max(others, 1)) for m in models]
    cut = [m.title for m, s in zip(models, slim, strict=True) if s is not m]
    notes += [f"Simplified for this page: {', '.join(cut)}."] if cut else []
    return Group(slim, True, notes)


def _files(run: Path) -> list[Path]:
    """Return one file of each shape, splats and meshes being two."""
    found = own_files(run, "outputs", *_ORDER)
    there = set(found)
    found = [p for p in found if p.with_name(_DOUBLES.get(p.name, p.name)) not in there - {p}]
    found.sort(key=lambda path: (path.parent, _ORDER.index(path.suffix.lower())))
    first: dict[Path, Path] = {}
    for path in found:
        first.setdefault(path.with_suffix(""), path)
    names = {path.stem for path in first.values()}
    shown = [p for p in first.values() if p.stem != "points" or "gaussians" not in names]
    # meshes first, what is drawn of the same thing beside it
    return sorted(shown, key=lambda path: (path.suffix.lower() == ".ply", str(path)))


def _matched_pair(run: Path) -> Group | None:
    """Return source and target of a match with its map; None where files are missing."""
    outputs = run / "outputs"
    names = ("source.glb", "target.glb", "map.npz")
    own = {path.name for path in own_files(run, "outputs", ".glb", ".npz")}
    if not set(names) <= own:
        return None
    try:
        source, target = (load_mesh(outputs / name) for name in names[:2])
        with np.load(outputs / "map.npz", allow_pickle=False) as arrays:
            p2p, confidence = arrays["p2p_21"].astype(np.int64), arrays["confidence"]
    except (Geo3dError, OSError, ValueError, KeyError) as error:
        _log.info("the match in %s is not shown: %s", run, error)
        return None
    fits = len(p2p) == len(confidence) == target.n_vertices
    if not fits or p2p.max(initial=-1) >= source.n_vertices:
        return None
    models = [
        model_of(source, "Source", MATCHED),
        replace(
            model_of(target, "Target", MATCHED),
            matches=p2p,
            scalars={CONFIDENCE: confidence_scalars(confidence)},
        ),
    ]
    slim = [_slim(model, FACES // 2, POINTS // 2) for model in models]
    if any(s is not m for s, m in zip(slim, models, strict=True)):
        return Group(slim, False, ["Simplified for this page."])
    return Group(models, False)


def confidence_scalars(confidence: Float[np.ndarray, " v"]) -> Scalars:
    """Return the confidence of matches as numbers to be seen."""
    values = np.clip(confidence.astype(np.float64), 0, 1)
    about = "Probability that a target vertex's match is within 5 % of the root of the area."
    return Scalars(values, 0.0, 1.0, "doubt to trust", about=about)


def read_model(path: Path, is_down: bool = False) -> Model:
    """Read a file of outputs/; Gaussians of scenes are y down, see `scenes.urban.export`.

    Raises:
        Geo3dError: what is wrong with the file.
    """
    if path.suffix.lower() == ".ply":
        with os.fdopen(open_regular(path, Limits(), follow_links=False), "rb") as file:
            columns = read_columns(file.read(Limits().max_bytes + 1), "vertex", Limits())
        if set(_SPLATS) | set(_TURNS) <= set(columns):
            return _of_splats(columns, path.stem, is_down)
    return model_of(load_mesh(path), path.stem, COLOURS)


def model_of(mesh: Mesh, title: str, shown: str = COLOURS) -> Model:
    """Return a mesh, or a point cloud, in its own colours, as a pane shows it."""
    faces = None if mesh.is_point_cloud else mesh.faces.astype(np.int64)
    return Model(title, mesh.vertices.astype(np.float64), {shown: _colors(mesh)}, faces)


def _colors(mesh: Mesh) -> UInt8[np.ndarray, "v 3"]:
    if mesh.vertex_colors is not None:
        return mesh.vertex_colors[:, :3]
    return np.tile(np.array(_GREY, np.uint8), (mesh.n_vertices, 1))


def _of_splats(columns: Mapping[str, np.ndarray], title: str, is_down: bool) -> Model:
    table = np.stack([columns[name].astype(np.float64) for name in _SPLATS], axis=1)
    turns = np.stack([columns[name].astype(np.float64) for name in _TURNS], axis=1)
    if not (np.isfinite(table).all() and np.isfinite(turns).all()):
        raise FileFormatError(
            "gaussians.bad_file", f"{title} holds numbers that are not finite.", "Export it again."
        )
    if is_down:  # half a turn around x: the product of (0, 1, 0, 0) with the quaternion
        table[:, 1:3] *= -1
        turns = turns[:, [1, 0, 3, 2]] * np.array([-1.0, 1.0, -1.0, 1.0])
    turns /= np.maximum(np.linalg.norm(turns, axis=1, keepdims=True), 1e-12)
    opacities = 1.0 / (1.0 + np.exp(-np.clip(table[:, 6], -30, 30)))
    scales = np.exp(np.clip(table[:, 7:10], -30, 10))
    shades = np.rint(255 * np.clip(0.5 + _SH_C0 * table[:, 3:6], 0, 1)).astype(np.uint8)
    seen = opacities > _FAINT
    splats = Splats(scales[seen], turns[seen], opacities[seen])
    return Model(title, table[seen, :3], {COLOURS: shades[seen]}, splats=splats)


def page_sized(model: Model) -> Model:
    """Return a model that a page of this machine can show: whole, unless it is huge."""
    return _slim(model, 2 * FACES, 4 * POINTS)


def _slim(model: Model, faces: int, points: int) -> Model:
    """Return a model with at most so many faces, or points; itself if it has no more."""
    if model.faces is not None:
        if len(model.faces) <= faces:
            return model
        coarse = with_faces(Mesh(model.points, model.faces), faces)
        near = np.asarray(KDTree(model.points).query(coarse.vertices)[1])
        # vertices have other numbers now, so that none can be asked for its match
        scalars = {
            name: replace(told, values=told.values[near]) for name, told in model.scalars.items()
        }
        colors = _taken(model.colors, near)
        return Model(model.title, coarse.vertices, colors, coarse.faces, scalars=scalars)
    if len(model.points) <= points:
        return model
    if model.splats is None:
        kept = np.linspace(0, len(model.points) - 1, points).astype(np.int64)
        return Model(model.title, model.points[kept], _taken(model.colors, kept))
    # what covers most of a picture
    weight = model.splats.opacities * np.sort(model.splats.scales, axis=1)[:, 1:].prod(axis=1)
    kept = np.sort(np.argsort(-weight, kind="stable")[:points])
    s = model.splats
    splats = Splats(s.scales[kept], s.turns[kept], s.opacities[kept])
    return Model(model.title, model.points[kept], _taken(model.colors, kept), splats=splats)


def _taken(colors: Mapping[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
    return {name: shades[kept] for name, shades in colors.items()}
