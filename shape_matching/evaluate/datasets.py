"""Folders of shapes with ground truth, opened as one `Dataset`; shapes are loaded when asked for.

Three layouts are understood, told apart by content:

* ``npz``: ``*.npz`` files (see `shape_matching.evaluate.ground_truth`), directly in the folder or
  one level below it (``FAUST/*.npz``, ``TOSCA_iso/*.npz``);
* ``folder``: ``off/`` (or ``shapes/``) with meshes and ``corres/`` with ``<shape>.vts``, or
  ``<a>_<b>.map`` per pair (SHREC'19).  Shapes may lie one level deeper, by category, as
  ``off/<category>/<shape>.off`` (DeformingThings4D); ``corres/cross_category_corres/<a>_<b>.vts``
  then maps body points of category a to those of b.  Text lists (``test.txt``, ``test_cat.txt``,
  ``pairs.txt``) beside ``off/`` choose shapes and pairs; ``dist/`` is not read, distances are
  computed.

* ``flat``: meshes in the folder or one level below it, with ``<shape>.vts``, ``<a>_<b>.map`` or
  ``<shape>.baryc_gt`` beside them.  A ``.baryc_gt`` file (SHREC'16: ``cuts/cuts_cat_shape_1``) maps
  its shape to the whole one whose name is a word of its own (``null/cat``).

In a folder of meshes without any file of truth, meshes with the same faces correspond vertex by
vertex.

A *family* is a group of shapes by name: the category folder, or the name without its trailing
number (``cat10`` is of family ``cat``); FAUST and SCAPE registrations are families ``faust`` and
``scape``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh
from shape_matching.evaluate.ground_truth import check_indices, read_npz_arrays, read_one_based

MESH_FOLDERS = ("off", "shapes")
BARYCENTRIC = ".baryc_gt"
MESH_SUFFIXES = (".off", ".obj", ".ply")
SMAL_ONLY = frozenset({"cougar", "cow", "fox", "hippo", "lion"})
"""Animals that occur in SMAL_r and not in TOSCA; all SMAL shapes share their body points."""
TOSCA_FAMILIES = frozenset(
    "cat centaur david dog gorilla horse lioness michael seahorse shark victoria wolf".split()
)


@dataclass(frozen=True, eq=False)
class ShapeRecord:
    """One shape with its ground truth."""

    name: str
    family: str
    mesh: Mesh
    corr: Int[np.ndarray, " i"] | None
    """Vertex that shows body point i, 0-based; None where ground truth is given per pair."""
    corr_sym: Int[np.ndarray, " i"] | None = None
    """Vertex that shows the left/right mirror image of body point i."""


@dataclass(frozen=True)
class ShapeFile:
    """Where a shape and its ground truth lie on disk."""

    name: str
    family: str
    path: Path
    corr_path: Path | None = None
    sym_path: Path | None = None

    @property
    def has_list(self) -> bool:
        """Whether the file brings a list of body points."""
        return self.corr_path is not None or self.path.suffix == ".npz"

    def load(self) -> ShapeRecord:
        """Read the shape and check its correspondence against it.

        Raises:
            Geo3dError: the codes of `shape_matching.evaluate.ground_truth` and of mesh reading.
        """
        return _load_npz(self) if self.path.suffix == ".npz" else _load_mesh_file(self)


@dataclass(frozen=True)
class Dataset:
    """The shapes of a folder in natural order, nothing loaded yet."""

    root: Path
    files: tuple[ShapeFile, ...]
    shared_ground_truth: bool
    """Whether shapes of different families speak of the same body points."""
    bridges: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    """Body points of category a -> those of category b, by (a, b)."""
    pair_maps: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    """Files by (source, target): the source vertex (SHREC'19), or the triangle and weights there
    (SHREC'16), of each target vertex."""

    @property
    def has_truth_files(self) -> bool:
        """Whether there is any file of ground truth."""
        return bool(self.pair_maps) or any(file.has_list for file in self.files)

    @property
    def names(self) -> tuple[str, ...]:
        """Shape names in natural order."""
        return tuple(file.name for file in self.files)

    @property
    def families(self) -> dict[str, tuple[str, ...]]:
        """Shape names by family, both in natural order."""
        groups: dict[str, list[str]] = {}
        for file in self.files:
            groups.setdefault(file.family, []).append(file.name)
        return {family: tuple(names) for family, names in groups.items()}

    def file(self, name: str) -> ShapeFile:
        """Return the entry of a shape.

        Raises:
            InputError: ``dataset.unknown_shape``.
        """
        for entry in self.files:
            if entry.name == name:
                return entry
        raise InputError(
            "dataset.unknown_shape",
            f"There is no shape '{name}' in {self.root}.",
            f"It holds {len(self.files)} shapes: {', '.join(self.names[:5])}, ...",
        )


def open_dataset(root: str | Path, shared_ground_truth: bool | None = None) -> Dataset:
    """Find the shapes below ``root``.

    Args:
        root: the folder with npz files, its parent, or a folder that holds ``off/``; a path to the
            ``off/`` folder itself is understood too.
        shared_ground_truth: whether pairs across families are comparable; None decides: yes for
            SMAL and for an ``off/`` folder whose lists are equally long, unless its names are
            TOSCA's; no otherwise.

    Raises:
        InputError: ``dataset.no_folder``, ``dataset.no_shapes``, ``dataset.duplicate_name``.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError("dataset.no_folder", f"There is no folder {root}.", "Check --data.")
    if root.name in MESH_FOLDERS and (root.parent / "corres").is_dir():
        root = root.parent
    mesh_folder = next((root / name for name in MESH_FOLDERS if (root / name).is_dir()), None)
    if mesh_folder is not None:
        return _open_folder(root, mesh_folder, root / "corres", shared_ground_truth)
    if not [*root.glob("*.npz"), *root.glob("*/*.npz")] and _mesh_paths(root):
        return _open_folder(root, root, None, shared_ground_truth)
    return _open_npz(root, shared_ground_truth)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key under which ``cat2`` comes before ``cat10``."""
    parts = re.split(r"(\d+)", name)
    return tuple((1, int(p), "") if p.isdigit() else (0, 0, p) for p in parts if p)


def family_of(name: str) -> str:
    """Return the family a shape name belongs to.

    >>> family_of("cat10"), family_of("tr_reg_080"), family_of("crypto/Walk015")
    ('cat', 'faust', 'crypto')
    """
    if "/" in name:
        return name.split("/")[0]
    stem = re.sub(r"[\d_\-.]+$", "", name).lower() or "shapes"
    return {"tr_reg": "faust", "mesh": "scape"}.get(stem, stem)


def _open_npz(root: Path, shared: bool | None) -> Dataset:
    paths = [*root.glob("*.npz"), *root.glob("*/*.npz")]
    stems = [path.stem for path in paths]
    files = []
    for path in sorted(paths, key=lambda p: (p.parent != root, p.parent.name, natural_key(p.stem))):
        unique = stems.count(path.stem) == 1
        name = path.stem if unique else f"{path.parent.name}:{path.stem}"
        files.append(ShapeFile(name, family_of(path.stem), path))
    default = _is_smal({file.family for file in files})
    return _dataset(root, files, default if shared is None else shared)


def _open_folder(
    root: Path, mesh_folder: Path, corres: Path | None, shared: bool | None
) -> Dataset:
    """Open meshes with truth in ``corres``, or (None) beside each mesh."""
    files = []
    for path in _mesh_paths(mesh_folder):
        name = path.relative_to(mesh_folder).with_suffix("").as_posix()
        if corres is None:
            name = path.stem
        start = (path.parent if corres is None else corres) / name
        corr, sym = (start.with_name(f"{start.name}{end}") for end in (".vts", ".sym.vts"))
        files.append(
            ShapeFile(
                name,
                family_of(name),
                path,
                corr if corr.is_file() else None,
                sym if sym.is_file() else None,
            )
        )
    files.sort(key=lambda file: natural_key(file.name))
    families = {file.family for file in files}
    beside = corres or root
    bridges = _named_pairs(beside / "cross_category_corres", "*.vts", families)
    maps = _named_pairs(beside, "*.map", {file.name for file in files})
    one_template = not (families & TOSCA_FAMILIES or bridges) and _lists_are_alike(files)
    default = _is_smal(families) or one_template
    # A file a_b.map lists, for each vertex of a, its vertex on b: b is the source, a the target.
    pair_maps = {(b, a): path for (a, b), path in maps.items()} | _barycentric_maps(files)
    return _dataset(root, files, default if shared is None else shared, bridges, pair_maps)


def _mesh_paths(folder: Path) -> list[Path]:
    """Return the mesh files in the folder and one level below it."""
    found = sorted([*folder.glob("*"), *folder.glob("*/*")])
    return [path for path in found if path.suffix.lower() in MESH_SUFFIXES and path.is_file()]


def _barycentric_maps(files: list[ShapeFile]) -> dict[tuple[str, str], Path]:
    """Return ``.baryc_gt`` files by (whole shape, the shape they lie beside)."""
    truth = {file.name: file.path.with_suffix(BARYCENTRIC) for file in files}
    truth = {name: path for name, path in truth.items() if path.is_file()}
    whole = {file.path.stem: file.name for file in files if file.name not in truth}
    pairs: dict[tuple[str, str], Path] = {}
    for name, path in truth.items():
        words = [word for word in path.stem.split("_") if word in whole]
        if len(words) == 1:
            pairs[whole[words[0]], name] = path
    return pairs


def _dataset(
    root: Path,
    files: list[ShapeFile],
    shared: bool,
    bridges: Mapping[tuple[str, str], Path] | None = None,
    pair_maps: Mapping[tuple[str, str], Path] | None = None,
) -> Dataset:
    if not files:
        raise InputError(
            "dataset.no_shapes",
            f"No shapes found in {root}.",
            "Expected *.npz files, meshes, or folders of them; or off/*.off with corres/*.vts.",
        )
    names = [file.name for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            "dataset.duplicate_name",
            f"{root} holds more than one shape called {', '.join(twice[:5])}.",
            "Keep one mesh file per shape.",
        )
    return Dataset(root, tuple(files), shared, bridges or {}, pair_maps or {})


def _named_pairs(folder: Path, pattern: str, known: set[str]) -> dict[tuple[str, str], Path]:
    """Return files called ``<a>_<b>`` by (a, b); the underscore is the one between known names."""
    pairs: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob(pattern), key=lambda p: natural_key(p.stem)):
        pieces = path.stem.split("_")
        for cut in range(1, len(pieces)):
            a, b = "_".join(pieces[:cut]), "_".join(pieces[cut:])
            if a in known and b in known:
                pairs[a, b] = path
    return pairs


def _lists_are_alike(files: list[ShapeFile]) -> bool:
    """Return whether all .vts files have the same number of entries."""
    paths = [file.corr_path for file in files if file.corr_path is not None]
    return len({len(path.read_bytes().split()) for path in paths}) <= 1


def _is_smal(families: set[str]) -> bool:
    return bool(families & SMAL_ONLY)


def _load_npz(file: ShapeFile) -> ShapeRecord:
    arrays = read_npz_arrays(file.path)
    mesh = Mesh(arrays["verts"], arrays["faces"], name=file.name)
    lists = [arrays["corr"].astype(np.int64)]
    if "corr_sym" in arrays:
        lists.append(arrays["corr_sym"].astype(np.int64))
    for indices in lists:
        check_indices(indices, mesh.n_vertices, file.path.name)
    return ShapeRecord(file.name, file.family, mesh, lists[0], lists[1] if lists[1:] else None)


def _load_mesh_file(file: ShapeFile) -> ShapeRecord:
    from geo3d.mesh.io import load_mesh

    loaded = load_mesh(file.path)
    mesh = Mesh(loaded.vertices, loaded.faces, loaded.vertex_colors, name=file.name)
    found: list[np.ndarray | None] = []
    for path in (file.corr_path, file.sym_path):
        indices = None if path is None else read_one_based(path)
        if path is not None and indices is not None:
            check_indices(indices, mesh.n_vertices, path.name)
        found.append(indices)
    corr, sym = found
    if corr is not None and sym is not None and len(corr) != len(sym):
        raise InputError(
            "dataset.bad_correspondence",
            f"{file.name}: .vts has {len(corr)} entries, .sym.vts {len(sym)}.",
            "Both list the same body points.",
        )
    return ShapeRecord(file.name, file.family, mesh, corr, sym)
