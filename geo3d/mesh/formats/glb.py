"""GLB (binary glTF 2.0) through trimesh, from memory, with no resolver.

The file is first checked and stripped by `geo3d.mesh.formats.glb_guard`.  Node transforms are
applied and the meshes of the scene are joined in node order; materials and textures are not read.
glTF stores vertex colours in linear light, `Mesh` in sRGB; eight bits of linear light, as written
here, are coarse in the dark, where a colour may come back up to 13 levels off.
Files of strangers go through `geo3d.mesh.sandbox`, which calls this in a limited child process.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from geo3d.errors import FileFormatError
from geo3d.mesh.formats.glb_guard import guarded_glb
from geo3d.mesh.mesh import Limits, Mesh, RawMesh


def read_glb(data: bytes, limits: Limits) -> RawMesh:
    """Read a GLB file.

    Raises:
        FileFormatError: ``mesh_file.bad_structure``, ``.truncated``, ``.lying_header``,
            ``.external_reference``, ``.unsupported_format``.
        LimitError: ``mesh_file.too_many_vertices``, ``mesh_file.too_many_faces``.
    """
    guarded, notes = guarded_glb(data, limits)
    import trimesh

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            scene = trimesh.load_scene(
                io.BytesIO(guarded), file_type="glb", process=False, skip_materials=True
            )
            vertices, faces, colors = _joined(scene)
    except MemoryError:
        raise
    except Exception as error:  # trimesh raises a dozen classes on damaged files
        raise FileFormatError(
            "mesh_file.bad_structure",
            f"The glTF content cannot be read ({type(error).__name__}).",
            "Check it with a glTF validator, or export it again.",
        ) from error
    return RawMesh(vertices, faces, colors, "glb", tuple(notes))


def _joined(scene: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    vertices, faces, colors, offset = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], [], 0
    for node in sorted(scene.graph.nodes_geometry):
        transform, name = scene.graph[node]
        part = scene.geometry[name]
        positions = np.asarray(part.vertices, np.float64)
        if not np.array_equal(transform, np.eye(4)):
            positions = positions @ transform[:3, :3].T + transform[:3, 3]
        vertices.append(positions)
        corners = np.asarray(getattr(part, "faces", faces[0]), np.int64)
        # glTF 2.0, 3.7.4: a transform that mirrors reverses the winding
        if np.linalg.det(transform[:3, :3]) < 0:
            corners = corners[:, [0, 2, 1]]
        faces.append(corners + offset)
        colors.append(_colors(part, len(positions)))
        offset += len(positions)
    if any(part is None for part in colors) or not colors:
        return np.concatenate(vertices), np.concatenate(faces), None
    return np.concatenate(vertices), np.concatenate(faces), np.concatenate(colors)


def _colors(part: Any, count: int) -> np.ndarray | None:
    visual: Any = part.visual
    if visual.kind != "vertex":
        return None
    rgb = np.asarray(visual.vertex_colors)
    # A point cloud without colours has an empty array here.
    return rgb[:, :3] if rgb.shape == (count, 4) else None


def write_glb(mesh: Mesh, matt: bool = False) -> bytes:
    """Return the mesh as GLB with normals and vertex colours; coordinates become float32.

    Readers such as trimesh drop the colours of vertices where there is a material, so a mesh with
    colours has none unless ``matt`` asks for it: viewers that light a scene take a mesh without
    one for metal.  A mesh without colours is always matt and two-sided.
    """
    import trimesh
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    colors = None if mesh.vertex_colors is None else _srgb_to_linear(mesh.vertex_colors)
    if mesh.is_point_cloud:
        cloud: Any = trimesh.PointCloud(mesh.vertices, colors=colors)
        return cloud.scene().export(file_type="glb")
    part: Any = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False, validate=False)
    rgba = None if colors is None else np.insert(colors, 3, 255, axis=1)
    if rgba is not None and not matt:
        part.visual.vertex_colors = rgba
    else:
        material = PBRMaterial(metallicFactor=0.0, roughnessFactor=0.75, doubleSided=True)
        part.visual = TextureVisuals(material=material)
        if rgba is not None:
            part.visual.vertex_attributes["color"] = rgba
    with np.errstate(all="ignore"):  # faces without area have no normal
        return part.export(file_type="glb", include_normals=True)


def _srgb_to_linear(colors: np.ndarray) -> np.ndarray:
    share = colors.astype(np.float64) / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.rint(255.0 * linear).astype(np.uint8)
