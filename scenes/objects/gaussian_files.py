"""Gaussians to PLY files and back, in the columns that viewers of Gaussians read.

Two frames are in use.  "y_up" is that of our meshes: (x, y, z) -> (x, z, -y), so that a mesh and
the Gaussians of one object coincide.  "published" is what TRELLIS writes: (x, y, z) -> (x, -z, y),
whose up is -y, as in captures by COLMAP; its meshes are y up, half a turn around x away.

Notation: g Gaussians; rotations are quaternions (w, x, y, z).

Source: Kerbl et al., "3D Gaussian Splatting" (2023), for the columns; Xiang et al., "Structured 3D
Latents" (TRELLIS, 2024), for the published frame.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.errors import FileFormatError
from geo3d.files import atomic_write_bytes
from geo3d.mesh.formats.ply import read_columns
from geo3d.mesh.io import open_regular
from geo3d.mesh.mesh import Limits
from scenes.objects.gaussians import GaussianConfig, Gaussians

Frame = Literal["y_up", "published"]
MOST_SH = 3
"""Highest degree of view-dependent colour that files have."""
AS_STORED = GaussianConfig(
    num_gaussians=1, scaling_activation="exp", scaling_bias=1.0, opacity_bias=0.5, filter_size=0.0
)
"""The features are what a file stores: logarithms of scales, logits of opacities."""
_NAMES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
_FIRST_AFTER_COLOR = _NAMES.index("opacity")
_NEEDED = tuple(name for name in _NAMES if name not in ("nx", "ny", "nz"))


@torch.no_grad()
def save_gaussians(
    gaussians: Gaussians,
    path: str | os.PathLike[str],
    frame: Frame = "y_up",
    sh_degree: int = 0,
) -> Path:
    """Write a binary PLY.

    Each vertex has x y z, zero normals, f_dc_0..2, the logit of its opacity, the logarithms of its
    scales and the quaternion (w, x, y, z) of its axes.  With ``sh_degree`` 1 to 3 zeros stand for
    the colour's dependence on the view (f_rest_*), for viewers that insist on these columns.
    """
    xyz, rotation = turned(gaussians.xyz, gaussians.rotation, _TURNS[frame])
    columns = [
        xyz,
        torch.zeros_like(xyz),
        gaussians.features_dc[:, 0],
        xyz.new_zeros(len(xyz), 3 * ((sh_degree + 1) ** 2 - 1)),
        gaussians.opacity_logit,
        gaussians.scaling.log(),
        rotation,
    ]
    return save_table(path, torch.cat(columns, dim=1).float().cpu().numpy())


def save_table(path: str | os.PathLike[str], table: Float[np.ndarray, "g c"]) -> Path:
    """Write numbers that are in the columns of the file already; more than 17 are f_rest_*."""
    rest = [f"f_rest_{i}" for i in range(table.shape[1] - len(_NAMES))]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    names = (*_NAMES[:_FIRST_AFTER_COLOR], *rest, *_NAMES[_FIRST_AFTER_COLOR:])
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    return atomic_write_bytes(path, "\n".join(header).encode() + table.astype("<f4").tobytes())


def load_gaussians(
    path: str | os.PathLike[str],
    frame: Frame = "y_up",
    limits: Limits = Limits(),  # noqa: B008
) -> Gaussians:
    """Read the Gaussians of a PLY, turned to z up.

    View-dependent colour (``f_rest_*``) is left out.

    Raises:
        InputError, LimitError, FileFormatError: the ``mesh_file`` codes of reading PLY files.
        FileFormatError: ``gaussians.bad_file`` (columns are missing, or not finite).
    """
    with os.fdopen(open_regular(path, limits), "rb") as file:
        columns = read_columns(file.read(limits.max_bytes + 1), "vertex", limits)
    if missing := sorted(set(_NEEDED) - set(columns)):
        raise FileFormatError(
            "gaussians.bad_file",
            f"{path} holds no Gaussians: {', '.join(missing)} missing.",
            "Give a PLY of 3D Gaussian splatting; meshes are read by `geo3d check`.",
        )
    table = np.stack([columns[name].astype(np.float32) for name in _NEEDED], axis=1)
    if not np.isfinite(table).all():
        raise FileFormatError(
            "gaussians.bad_file", f"{path} holds numbers that are not finite.", "Export it again."
        )
    xyz, color, opacity, scales, rotation = torch.from_numpy(table).split([3, 3, 1, 3, 4], dim=1)
    # The turn back is the other quarter turn.
    xyz, rotation = turned(xyz, rotation, -_TURNS[frame])
    return Gaussians(
        unit_xyz=xyz + 0.5,
        features_dc=color[:, None],
        raw_scaling=scales,
        raw_rotation=rotation - rotation.new_tensor([1, 0, 0, 0]),
        raw_opacity=opacity,
        config=AS_STORED,
    )


_TURNS: dict[Frame, Literal[-1, 1]] = {"y_up": -1, "published": 1}


def turned(
    xyz: Float[Tensor, "g 3"], quaternions: Float[Tensor, "g 4"], quarter: int
) -> tuple[Float[Tensor, "g 3"], Float[Tensor, "g 4"]]:
    """Return positions and rotations after a quarter turn around x.

    Args:
        xyz: positions.
        quaternions: rotations.
        quarter: 1 turns y to z, -1 z to y.
    """
    x, y, z = xyz.unbind(1)
    w, i, j, k = quaternions.unbind(1)
    # The product of (1, quarter, 0, 0) / sqrt(2), the turn, with the quaternion.
    rotation = [w - quarter * i, i + quarter * w, j - quarter * k, k + quarter * j]
    places = torch.stack([x, -quarter * z, quarter * y], dim=1)
    return places, torch.stack(rotation, dim=1) * math.sqrt(0.5)
