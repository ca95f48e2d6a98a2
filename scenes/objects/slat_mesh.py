"""From the features of fine voxels to a mesh: shared grid points, then FlexiCubes.

Each active cube tells the signed distance, displacement and colour of its 8 corners; a grid point
gets the mean over the active cubes around it.  Elsewhere the field is outside (+1).  Nothing of the
size of the volume is made: inactive cubes take part only where a neighbour's corner is inside.

Notation: f cubes, v grid points, c attributes; resolution = cubes along an edge; positions are in
[-0.5, 0.5]^3, z up.

Source: Xiang et al., "Structured 3D Latents for Scalable and Versatile 3D Generation" (TRELLIS,
2024), supplement on mesh decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from geo3d.errors import InputError
from geo3d.mesh.manifold import cancelled, separated
from geo3d.mesh.mesh import Mesh
from scenes.objects.flexicubes import WEIGHTS, Cubes, corner_keys, crossed, flexicubes
from scenes.objects.flexicubes_tables import CORNERS
from scenes.objects.sparse import SparseTensor
from scenes.objects.whole import solid_signs

_OUTSIDE = 1.0
_TABLE_PER_KEY = 8
_TINY = 1e-6
_ATTRIBUTES = 6
"""Red, green, blue, and a normal."""


@dataclass(frozen=True)
class CubeLayout:
    """Which channels of a cube mean what."""

    use_color: bool = True
    """Whether corners have colours and normals."""
    close: bool = True
    """Whether the surface is closed where the inside meets cubes that are not active, as published.
    Then a shell of cubes gets an inner surface; without, only what the cubes tell is drawn."""

    @property
    def channels(self) -> int:
        """Features of a cube."""
        return sum(self.widths)

    @property
    def widths(self) -> list[int]:
        """Channels of signed distance, displacement, weights and (with colour) attributes."""
        return [8, 24, WEIGHTS] + [8 * _ATTRIBUTES] * self.use_color


@dataclass(frozen=True)
class ExtractedMesh:
    """A surface, on its device and differentiable."""

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    attributes: Float[Tensor, "v 6"] | None
    """Red, green, blue and a normal in [0, 1]."""
    regularity: Float[Tensor, ""] | None = None
    """Training only: the penalty on uneven cubes."""
    points: Float[Tensor, "p 3"] | None = None
    """Training only: grid points of the active cubes."""
    distances: Float[Tensor, " p"] | None = None
    """Training only: their signed distances."""

    def to_mesh(self, *, y_up: bool = True, name: str = "object") -> Mesh:
        """Return a `Mesh` with colours per vertex, turned to y up as viewers expect.

        Where more than two faces meet at an edge they are taken apart.

        Raises:
            InputError: ``objects.empty_mesh``.
        """
        if len(self.faces) == 0:
            raise InputError(
                "objects.empty_mesh",
                "The decoded field has no surface.",
                "Try another seed, or more sampling steps.",
            )
        vertices = self.vertices.detach().double().cpu().numpy()
        if y_up:
            vertices = vertices[:, [0, 2, 1]] * np.array([1, 1, -1])
        colors = None
        if self.attributes is not None:
            red_green_blue = self.attributes[:, :3].detach().float().clamp(0, 1)
            colors = (red_green_blue * 255).round().to(torch.uint8).cpu().numpy()
        vertices, faces, source = separated(vertices, cancelled(self.faces.cpu().numpy()))
        return Mesh(vertices, faces, None if colors is None else colors[source], name)


class _Field(NamedTuple):
    """A set of cubes and what is known at their grid points."""

    cubes: Cubes
    keys: Int[Tensor, " v"]
    """Numbers of the grid points in the whole grid, ascending."""
    values: Float[Tensor, "v c"]
    """Signed distance, displacement, and attributes."""


def extract_mesh(
    item: SparseTensor,
    resolution: int,
    layout: CubeLayout,
    *,
    training: bool = False,
    whole: bool = False,
) -> ExtractedMesh:
    """Return the mesh of one item whose voxels are cubes of a grid of ``resolution``.

    With ``training`` quads are split in four and the penalties are computed.  With ``whole`` the
    surface is closed, whatever ``layout.close`` says, and has no inner walls
    (`scenes.objects.whole`).
    """
    widths = layout.widths
    sdf, displacement, weights, *color = item.feats.float().split(widths, dim=1)
    corners = [sdf[..., None] - 1 / resolution, displacement.unflatten(1, (8, 3))]
    if color:
        corners.append(color[0].unflatten(1, (8, _ATTRIBUTES)))
    cube_values = torch.cat(corners, dim=2)
    active = _share_corners(item.coords[:, 1:], cube_values, resolution)
    draw = _solid if whole else _add_rim if layout.close else _passed
    field, owner = draw(active, resolution)
    padded = F.pad(weights, (0, 0, 0, 1))[owner]
    attributes = field.values[:, 4:].sigmoid() if color else None
    points = _positions(field, resolution)
    surface = flexicubes(
        points, field.values[:, 0], field.cubes, padded, attributes, training=training
    )
    mesh = ExtractedMesh(surface.vertices, surface.faces, surface.attributes)
    if not training:
        return mesh
    penalty = _spread(active, cube_values) + 0.2 * weights[:, :20].abs().mean()
    if len(surface.faces):
        penalty = penalty + 0.5 * surface.deviations.mean()
    return ExtractedMesh(
        mesh.vertices,
        mesh.faces,
        mesh.attributes,
        penalty,
        _positions(active, resolution),
        active.values[:, 0],
    )


def _share_corners(
    coords: Int[Tensor, "f 3"], cube_values: Float[Tensor, "f 8 c"], resolution: int
) -> _Field:
    """Average what the cubes around each grid point say."""
    keys, index = _distinct(corner_keys(coords, resolution), (resolution + 1) ** 3)
    total = cube_values.new_zeros(len(keys), cube_values.shape[2])
    number = torch.bincount(index.flatten(), minlength=len(keys)).to(cube_values.dtype)
    for corner in range(8):
        total = total.index_add(0, index[:, corner], cube_values[:, corner])

    return _Field(Cubes(coords, index), keys, total / number[:, None])


def _distinct(keys: Int[Tensor, "f 8"], limit: int) -> tuple[Int[Tensor, " v"], Tensor]:
    """Return the distinct keys, ascending, and the place of each key among them."""
    if limit > _TABLE_PER_KEY * keys.numel():
        return keys.unique(return_inverse=True)
    # A sort would take several times as long as a table of all possible keys.
    found = torch.zeros(limit, dtype=torch.bool, device=keys.device)
    found[keys.flatten()] = True
    return found.nonzero()[:, 0], (found.cumsum(0) - 1)[keys]


def _passed(active: _Field, resolution: int) -> tuple[_Field, Int[Tensor, " f"]]:
    """Return the active cubes that the surface passes, in ascending order, and their rows."""
    rows = crossed(active.values[:, 0], active.cubes.corners).nonzero()[:, 0]
    key_of_cube = torch.tensor([resolution**2, resolution, 1], device=active.keys.device)
    rows = rows[(active.cubes.coords[rows].long() * key_of_cube).sum(1).argsort()]
    cubes = Cubes(active.cubes.coords[rows], active.cubes.corners[rows])
    return _Field(cubes, active.keys, active.values), rows


def _add_rim(active: _Field, resolution: int) -> tuple[_Field, Int[Tensor, " f"]]:
    """Return the cubes that the surface passes, inactive ones included, in ascending order.

    Also returns the row of each among the active cubes, or -1.
    """
    coords, device = active.cubes.coords.long(), active.keys.device
    inside = active.keys[active.values[:, 0] < 0]
    side = resolution + 1
    points = torch.stack([inside // side**2, inside // side % side, inside % side], dim=1)
    # A cube has the point at corner c if it is at the point less c; of those, cubes of the grid.
    around = (points[:, None] - torch.tensor(CORNERS, device=device)).flatten(0, 1)
    around = around[((around >= 0) & (around < resolution)).all(1)]
    key_of_cube = torch.tensor([resolution**2, resolution, 1], device=device)
    passes = crossed(active.values[:, 0], active.cubes.corners)
    known = (coords * key_of_cube).sum(1)
    wanted = torch.cat([known[passes], (around * key_of_cube).sum(1)]).unique()
    ordered, row = known.sort()
    place = torch.searchsorted(ordered, wanted).clamp_(max=max(len(ordered) - 1, 0))
    found = ordered[place] == wanted if len(ordered) else wanted < 0
    owner = torch.where(found, row[place], -1) if len(ordered) else wanted
    cubes = torch.stack(
        [wanted // resolution**2, wanted // resolution % resolution, wanted % resolution], dim=1
    )
    corners = corner_keys(cubes, resolution)
    keys = torch.cat([active.keys, corners.flatten()]).unique()
    values = active.values.new_zeros(len(keys), active.values.shape[1])
    values[:, 0] = _OUTSIDE
    values = values.index_copy(0, torch.searchsorted(keys, active.keys), active.values)
    return _Field(Cubes(cubes, torch.searchsorted(keys, corners)), keys, values), owner


def _solid(active: _Field, resolution: int) -> tuple[_Field, Int[Tensor, " f"]]:
    """Return the cubes that the surface of the solid passes, in ascending order.

    Also returns the row of each among the active cubes, or -1.  What the active cubes do not tell
    is as far inside or outside as what they tell is in the middle.
    """
    side, device = resolution + 1, active.keys.device
    known = np.full(side**3, _OUTSIDE, np.float32)
    keys = active.keys.cpu().numpy()
    distances = active.values[:, 0].detach().float().cpu().numpy()
    known[keys] = distances
    cells = np.full((resolution,) * 3, -1, np.int64)
    coords = active.cubes.coords.cpu().numpy()
    cells[tuple(coords.T)] = np.arange(len(coords))
    inside = solid_signs(known.reshape((side,) * 3), cells >= 0)

    count = sum(
        inside[x : x + resolution, y : y + resolution, z : z + resolution].astype(np.int8)
        for x, y, z in CORNERS
    )
    passed = np.argwhere((count > 0) & (count < 8))
    cubes = torch.from_numpy(np.ascontiguousarray(passed)).to(device)
    corners = corner_keys(cubes, resolution).contiguous()
    used = corners.unique()
    place = torch.searchsorted(active.keys, used).clamp_(max=max(len(keys) - 1, 0))
    told = active.keys[place] == used if len(keys) else used < 0
    values = active.values.new_zeros(len(used), active.values.shape[1])
    values[told] = active.values[place[told]]
    values[:, 4:] = _looks(active, used, resolution)
    size = values[:, 0].abs()
    size[~told] = size[told].median() if bool(told.any()) else _OUTSIDE
    sign = torch.from_numpy(np.where(inside.reshape(-1), -1.0, 1.0)).to(size)[used]
    values[:, 0] = sign * size.clamp_min(_TINY)
    owner = torch.from_numpy(cells[tuple(passed.T)]).to(device)
    return _Field(Cubes(cubes, torch.searchsorted(used, corners)), used, values), owner


def _looks(active: _Field, keys: Int[Tensor, " v"], resolution: int) -> Float[Tensor, "v c"]:
    """Return the attributes at grid points: those of the nearest that a surface runs by."""
    passes = crossed(active.values[:, 0], active.cubes.corners)
    near = active.cubes.corners[passes].unique() if bool(passes.any()) else slice(None)
    side = resolution + 1

    def places(numbers: Tensor) -> np.ndarray:
        found = [numbers // side**2, numbers // side % side, numbers % side]
        return torch.stack(found, dim=1).cpu().numpy()

    if active.values.shape[1] == 4 or len(active.keys) == 0:
        return active.values.new_zeros(len(keys), active.values.shape[1] - 4)
    found = KDTree(places(active.keys[near])).query(places(keys))[1]
    return active.values[near][torch.from_numpy(found).to(keys.device), 4:]


def _positions(field: _Field, resolution: int) -> Float[Tensor, "v 3"]:
    """Return the displaced grid points; none leaves its half of a cube."""
    side = resolution + 1
    keys = field.keys
    plain = torch.stack([keys // side**2, keys // side % side, keys % side], dim=1)
    reach = (1 - 1e-8) / (2 * resolution)
    return plain / resolution - 0.5 + reach * field.values[:, 1:4].tanh()


def _spread(active: _Field, cube_values: Float[Tensor, "f 8 c"]) -> Float[Tensor, ""]:
    """Return how much cubes disagree about the grid points they share."""
    return (cube_values - active.values[active.cubes.corners]).square().mean()
