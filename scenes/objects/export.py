"""An object to files: meshes with colours, Gaussians, latents, and images of the mesh.

Files are y up, meshes and Gaussians alike, so that they coincide in a viewer; the cube
[-0.5, 0.5]^3 stays the cube.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from geo3d import checkpoints
from geo3d.config import require
from geo3d.errors import ConfigError, InputError
from geo3d.mesh.io import save_mesh
from geo3d.mesh.manifold import open_edges
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.simplify import FEWEST_FACES, with_faces
from geo3d.render.cameras import orbit
from geo3d.render.previews import contact_sheet, save_png
from geo3d.render.shading import Painter
from scenes.objects.gaussian_files import MOST_SH, Frame, save_gaussians
from scenes.objects.gaussians import cube_camera, render_gaussians
from scenes.objects.pipeline import Generated
from scenes.objects.radiance import render_radiance
from scenes.objects.texture import bake, save_textured_glb

FORMATS = ("glb", "obj", "ply")
"""Formats of meshes."""
VIEWS_DEG = (0, 90, 180, 270)
"""Directions the previews look from."""
_VIEW_PIXELS = 320
_FIELD_PIXELS = 160
"""Of views of radiance fields, which take a second each."""


@dataclass(frozen=True)
class ExportConfig:
    """Which files are written."""

    formats: tuple[str, ...] = ("glb",)
    """Of the mesh: glb, obj, ply."""
    faces: int | None = None
    """Most faces of the mesh; None means all."""
    texture: int | None = None
    """Texels along an edge of a texture in place of the colours of a GLB's vertices; None: none."""
    views: int = len(VIEWS_DEG)
    """Images of the object, from all sides; 0 for none."""
    gaussian_frame: Frame = "y_up"
    """Of the Gaussians: as the mesh, or as TRELLIS publishes (see `gaussian_files`)."""
    sh_degree: int = 0
    """Degree of the Gaussians' view-dependent colour, written as zeros (``f_rest_*``)."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.formats) - set(FORMATS)):
            raise ConfigError(
                "object_export.unknown_format",
                f"Meshes are not written as {', '.join(unknown)}.",
                f"Choose among {', '.join(FORMATS)}.",
            )
        enough = self.faces is None or self.faces >= FEWEST_FACES
        require(0 <= self.sh_degree <= MOST_SH, "sh_degree", f"0 to {MOST_SH}")
        require(enough, "faces", f"at least {FEWEST_FACES}")


def export(
    made: Generated, name: str, folders: tuple[Path, Path], config: ExportConfig = ExportConfig()
) -> dict[str, Any]:
    """Write an object's files and return what is in them.

    Args:
        made: the object.
        name: beginning of the files' names.
        folders: for results and for images.
        config: which files.
    """
    outputs = folders[0]
    row: dict[str, Any] = {"name": name, "seed": made.seed, "files": [], "notes": []}
    if made.latent is None:
        return {**row, "voxels": 0, "notes": ["The structure is empty."]}
    row["voxels"] = len(made.latent)
    latent = {"coords": made.latent.coords[:, 1:].contiguous(), "feats": made.latent.feats}
    path = outputs / f"{name}-latent.safetensors"
    checkpoints.save(path, {"structure": made.structure, **latent})
    row["files"].append(path.name)
    if made.gaussian is not None:
        path = outputs / f"{name}-gaussians.ply"
        save_gaussians(made.gaussian, path, config.gaussian_frame, config.sh_degree)
        row |= {"gaussians": len(made.gaussian.xyz)}
        row["files"].append(path.name)
    if made.mesh is not None:
        _export_mesh(made, row, folders, config)
    for kind, views in volume_views(made, config.views).items():
        write_views(views, folders[1] / f"{name}-{kind}.png")
    return row


def simplified(mesh: Mesh, faces: int) -> Mesh:
    """Return ``mesh`` with at most ``faces`` faces and its colours."""
    coarse = with_faces(mesh, faces)
    if coarse is mesh or mesh.vertex_colors is None:
        return coarse
    nearest = KDTree(mesh.vertices).query(coarse.vertices)[1]
    return Mesh(coarse.vertices, coarse.faces, mesh.vertex_colors[nearest], coarse.name)


def object_views(mesh: Mesh, count: int = len(VIEWS_DEG)) -> list[np.ndarray]:
    """Return images of a mesh that is y up, from all sides."""
    painter = Painter(mesh)
    turns = (2 * np.pi * i / count for i in range(count))
    return [painter.rgb(orbit(mesh, turn, size=_VIEW_PIXELS)) for turn in turns]


def volume_views(made: Generated, count: int = len(VIEWS_DEG)) -> dict[str, list[np.ndarray]]:
    """Return images of an object's Gaussians and radiance field, from the sides of the mesh's."""
    views: dict[str, list[np.ndarray]] = {}
    turns = [2 * np.pi * i / count for i in range(count)]
    if made.gaussian is not None and turns:
        cameras = [cube_camera(turn, size=_VIEW_PIXELS) for turn in turns]
        views["gaussians"] = [render_gaussians(made.gaussian, camera) for camera in cameras]
    if made.radiance is not None and turns:
        cameras = [cube_camera(turn, size=_FIELD_PIXELS) for turn in turns]
        views["radiance"] = [render_radiance(made.radiance, camera) for camera in cameras]
    return views


def write_views(views: Sequence[np.ndarray], path: Path) -> Path:
    """Write images side by side."""
    return save_png(contact_sheet(views, columns=len(views)), path)


def _export_mesh(
    made: Generated, row: dict[str, Any], folders: tuple[Path, Path], config: ExportConfig
) -> None:
    extracted = made.mesh
    if extracted is None or len(extracted.faces) == 0:
        row["notes"].append("The decoded field has no surface: there is no mesh.")
        return
    fine = mesh = extracted.to_mesh(name=row["name"])
    if config.faces is not None:
        mesh = simplified(mesh, config.faces)
    textured = None
    if config.texture is not None and "glb" in config.formats:
        try:
            textured = bake(mesh, fine, config.texture)
        except (ConfigError, InputError) as error:
            row["notes"].append(f"There is no texture: {error.message} {error.hint}")
    for suffix in config.formats:
        path = folders[0] / f"{row['name']}.{suffix}"
        if textured is not None and suffix == "glb":
            save_textured_glb(textured, path)
        else:
            save_mesh(mesh, path)
        row["files"].append(path.name)
    row |= {"vertices": len(mesh.vertices), "faces": len(mesh.faces)}
    row["open_edges"], row["edges"] = open_edges(mesh.faces)
    if config.views:
        write_views(object_views(mesh, config.views), folders[1] / f"{row['name']}.png")
