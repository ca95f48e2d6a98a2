"""Shaded images of meshes and point clouds on the CPU.

Notation: h w image, p rays, v vertices; images are sRGB uint8, light is added up in linear values.
A mesh is shown with smooth vertex normals turned towards the viewer, one key light above the
viewer's left shoulder (with an optional shadow), a weak fill light and sky/ground ambient light.
Points are drawn as small lit spheres.  Edges are smoothed by rendering larger and averaging.

Colours on shapes: by position, carried along a map, by error.

Notation: v vertices; colours are sRGB uint8; ``p2p_21`` (n2,) gives each target vertex its source
vertex.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import creased_normals, unit_rows, vertex_normals
from geo3d.render.cameras import Camera
from geo3d.render.raycast import RAYS_AT_ONCE, RayCaster

CLAY = np.array([196, 190, 182], np.uint8)
"""Colour of a mesh that has none."""
GAMMA = 2.2
_AMBIENT_SKY, _AMBIENT_GROUND, _KEY, _FILL = 0.42, 0.24, 0.62, 0.12


@dataclass(frozen=True)
class Style:
    """How images are drawn."""

    background: tuple[int, int, int] = (255, 255, 255)
    """sRGB behind the shape."""
    supersample: int = 2
    """Samples per pixel side; 1 draws without smoothing."""
    shadow: bool = True
    """Whether parts of the shape shade each other from the key light."""
    point_radius: float | None = None
    """Radius of drawn points in pixels; by default from their spacing."""
    crease: float | None = None
    """Angle between faces above which an edge is drawn sharp; by default all are smooth."""


DEFAULT_STYLE = Style()


def render_mesh(
    mesh: Mesh,
    camera: Camera,
    vertex_colors: UInt8[np.ndarray, "v 3"] | None = None,
    style: Style = DEFAULT_STYLE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a shaded image; colours are the argument's, else the mesh's own, else clay.

    Raises:
        InputError: ``render.bad_colors`` where the colours do not fit the vertices.
    """
    return Painter(mesh, vertex_colors, style).rgb(camera)


class Painter:
    """A mesh or point cloud made ready to be drawn from several cameras.

    Raises:
        InputError: ``render.bad_colors`` where the colours do not fit the vertices.
    """

    def __init__(
        self,
        mesh: Mesh,
        vertex_colors: UInt8[np.ndarray, "v 3"] | None = None,
        style: Style = DEFAULT_STYLE,
    ) -> None:
        self._mesh, self._style = mesh, style
        self._albedo = (_colors_of(mesh, vertex_colors) / 255.0) ** GAMMA
        if not mesh.is_point_cloud:
            self._caster = RayCaster(mesh)
            self._normals = _corner_normals(mesh, style.crease)

    def rgb(self, camera: Camera) -> UInt8[np.ndarray, "h w 3"]:
        """Return the image over the style's background."""
        image = self._light(camera)
        background = (np.array(self._style.background) / 255.0) ** GAMMA
        return _to_srgb(image[..., :3] + (1.0 - image[..., 3:]) * background)

    def rgba(self, camera: Camera) -> UInt8[np.ndarray, "h w 4"]:
        """Return colour (not multiplied by opacity) and opacity; black where empty."""
        image = self._light(camera)
        color = image[..., :3] / np.maximum(image[..., 3:], 1e-9)
        alpha = np.rint(255.0 * image[..., 3:]).astype(np.uint8)
        return np.concatenate([_to_srgb(color), alpha], axis=-1)

    def _light(self, camera: Camera) -> Float[np.ndarray, "h w 4"]:
        """Return linear light multiplied by opacity, and opacity."""
        s = self._style.supersample
        big = camera.finer(s)
        if self._mesh.is_point_cloud:
            image = _points_image(self._mesh, big, self._albedo, self._style)
        else:
            image = self._mesh_image(big)
        return image.reshape(camera.height, s, camera.width, s, 4).mean(axis=(1, 3))

    def _mesh_image(self, camera: Camera) -> Float[np.ndarray, "p 4"]:
        image = np.zeros((camera.height * camera.width, 4))
        extent = float(np.ptp(self._mesh.vertices, axis=0).max())
        rows = max(1, RAYS_AT_ONCE // camera.width)
        for top in range(0, camera.height, rows):
            origins, directions = camera.rays(slice(top, top + rows))
            hits = self._caster.cast(origins, directions)
            seen = np.flatnonzero(hits.face_ids >= 0)
            faces, weights = hits.face_ids[seen], hits.barycentric[seen]
            normal = unit_rows(_blend(self._normals[faces], weights))
            # a surface seen from behind is lit as seen, so open meshes show no black insides
            away = np.einsum("pi,pi->p", normal, directions[seen]) > 0
            normal[away] *= -1
            points = origins[seen] + hits.distance[seen, None] * directions[seen]
            lit = 1.0
            if self._style.shadow:
                lit = _key_visibility(self._caster, points, normal, camera, extent)
            light = _light(normal, camera, lit)
            albedo = _blend(self._albedo[self._mesh.faces[faces]], weights)
            image[top * camera.width + seen, :3] = albedo * light[:, None]
            image[top * camera.width + seen, 3] = 1.0
        return image


def _to_srgb(linear: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.rint(255.0 * np.clip(linear, 0, 1) ** (1 / GAMMA)).astype(np.uint8)


def _colors_of(mesh: Mesh, vertex_colors: np.ndarray | None) -> np.ndarray:
    if vertex_colors is None:
        vertex_colors = mesh.vertex_colors
    if vertex_colors is None:
        return np.broadcast_to(CLAY, (mesh.n_vertices, 3))
    if vertex_colors.shape != (mesh.n_vertices, 3):
        raise InputError(
            "render.bad_colors",
            f"{mesh.name} has {mesh.n_vertices} vertices, the colours are {vertex_colors.shape}.",
            "Give one RGB triple per vertex.",
        )
    return vertex_colors


def _corner_normals(mesh: Mesh, crease: float | None) -> Float[np.ndarray, "f 3 3"]:
    if crease is None:
        return vertex_normals(mesh)[mesh.faces]
    return creased_normals(mesh, crease)


def _blend(
    values: Float[np.ndarray, "p 3 3"], weights: Float[np.ndarray, "p 3"]
) -> Float[np.ndarray, "p 3"]:
    first, second, third = (values[:, i] * weights[:, i : i + 1] for i in range(3))
    return first + second + third


def _key_direction(camera: Camera) -> Float[np.ndarray, " 3"]:
    return camera.c2w[:3, :3] @ (np.array([-0.45, -0.75, -0.65]) / 1.09)


def _key_visibility(
    caster: RayCaster,
    points: np.ndarray,
    normals: np.ndarray,
    camera: Camera,
    extent: float,
) -> np.ndarray:
    key = _key_direction(camera)
    visible = np.ones(len(points))
    # faces turned away get no key light anyway
    facing = np.flatnonzero(normals @ key > 0)
    start = points[facing] + normals[facing] * (4e-3 * extent)
    blocked = caster.is_hit(start, np.broadcast_to(key, start.shape))
    visible[facing[blocked]] = 0.35
    return visible


def _light(
    normals: np.ndarray, camera: Camera, key_visible: np.ndarray | float
) -> Float[np.ndarray, " p"]:
    right, down, forward = camera.c2w[:3, :3].T
    fill = (0.8 * right - 0.1 * down - 0.6 * forward) / 1.005
    sky = (1.0 - normals @ down) / 2
    ambient = _AMBIENT_GROUND + (_AMBIENT_SKY - _AMBIENT_GROUND) * sky
    key = np.clip(normals @ _key_direction(camera), 0, None) * key_visible
    return ambient + _KEY * key + _FILL * np.clip(normals @ fill, 0, None)


def _points_image(cloud: Mesh, camera: Camera, albedo: np.ndarray, style: Style) -> np.ndarray:
    pixels, depth = camera.project(cloud.vertices.astype(np.float64))
    image = np.zeros((camera.height * camera.width, 4))
    front = np.flatnonzero(depth > 0)
    # far points first: a later, nearer one paints over them
    front = front[np.argsort(-depth[front], kind="stable")]
    centre = np.floor(pixels[front]).astype(np.int64)
    radius = _point_radius(pixels[front], style)
    reach = int(np.ceil(radius))
    steps = np.arange(-reach, reach + 1)
    dj, di = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))
    round_ = di**2 + dj**2 <= radius**2
    di, dj = di[round_], dj[round_]
    across = np.stack([di, dj], axis=1) / (radius + 0.5)
    local = np.column_stack([across, -np.sqrt(1 - (across**2).sum(axis=1))])
    light = _light(local @ camera.c2w[:3, :3].T, camera, 1.0)
    columns, lines = centre[:, :1] + di, centre[:, 1:] + dj
    inside = (columns >= 0) & (columns < camera.width) & (lines >= 0) & (lines < camera.height)
    which, spot = np.nonzero(inside)
    # the last point written to a pixel is the nearest one
    target = lines[which, spot] * camera.width + columns[which, spot]
    _, last = np.unique(target[::-1], return_index=True)
    last = len(target) - 1 - last
    image[target[last], :3] = albedo[front[which[last]]] * light[spot[last], None]
    image[target[last], 3] = 1.0
    return image


def _point_radius(pixels: np.ndarray, style: Style) -> float:
    if style.point_radius is not None:
        return max(1.0, style.point_radius * style.supersample)
    extent = np.ptp(pixels, axis=0) if len(pixels) else np.ones(2)
    spacing = np.sqrt(float(np.prod(np.maximum(extent, 1.0))) / max(len(pixels), 1))
    return float(np.clip(0.7 * spacing, 1.5 * style.supersample, 6.0 * style.supersample))


# lightness falls steadily along the row, so the order survives grey printing and colour blindness
ERROR_STOPS = np.array(
    [[246, 243, 230], [252, 210, 130], [243, 136, 72], [203, 60, 80], [120, 25, 100], [35, 10, 60]],
    np.float64,
)
UNKNOWN_COLOR = np.array([150, 160, 170], np.uint8)
_DARKEST, _BRIGHTEST = 25.0, 245.0


def position_colors(mesh: Mesh) -> UInt8[np.ndarray, "v 3"]:
    """Return colours that vary smoothly with position: x red, y green, z blue.

    Each axis is stretched over its own extent; a flat axis gets the middle value.
    """
    points = mesh.vertices.astype(np.float64)
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    share = np.divide(points - low, extent, out=np.full_like(points, 0.5), where=extent > 0)
    return np.rint(_DARKEST + (_BRIGHTEST - _DARKEST) * share).astype(np.uint8)


def transfer_colors(
    colors_source: UInt8[np.ndarray, "n1 3"], p2p_21: Int[np.ndarray, " n2"]
) -> UInt8[np.ndarray, "n2 3"]:
    """Return the colour each target vertex gets from its source vertex; grey where the map says -1.

    Raises:
        InputError: ``colors.index_out_of_range``.
    """
    n = len(colors_source)
    if len(p2p_21) and (p2p_21.min() < -1 or p2p_21.max() >= n):
        raise InputError(
            "colors.index_out_of_range",
            f"The map holds source vertices {p2p_21.min()}..{p2p_21.max()}, the source has {n}.",
            "p2p_21 has one entry per target vertex: its 0-based source vertex. Is it the "
            "other direction?",
        )
    carried = colors_source[p2p_21]
    carried[p2p_21 == -1] = UNKNOWN_COLOR
    return carried


def ramp_colors(
    stops: Float[np.ndarray, "n 3"], share: Float[np.ndarray, "*place"]
) -> UInt8[np.ndarray, "*place 3"]:
    """Return the colours of a ramp at shares of its length, clipped to 0..1."""
    at = np.clip(share, 0.0, 1.0) * (len(stops) - 1)
    channels = [np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def error_colors(
    errors: Float[np.ndarray, " v"], maximum: float | None = None
) -> UInt8[np.ndarray, "v 3"]:
    """Return colours from light (0) to dark (``maximum`` and more); grey where not finite.

    Args:
        errors: values >= 0.
        maximum: end of the scale; by default the largest finite value.
    """
    finite = np.isfinite(errors)
    if maximum is None:
        maximum = float(errors[finite].max()) if finite.any() else 0.0
    share = np.where(finite, errors, 0.0) / maximum if maximum > 0 else np.zeros(len(errors))
    colors = ramp_colors(ERROR_STOPS, share)
    colors[~finite] = UNKNOWN_COLOR
    return colors
