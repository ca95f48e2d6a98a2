"""What a camera sees of a layout: depth, class and instance maps, and where the primitives lie.

Notation: h w image, s intervals of a ray; depth is z-depth in metres, along the camera's z axis; a
pixel's ray goes through its centre.  Near, far and the condition image follow the release of Urban
Architect (arXiv 2404.06780); the list of intervals per ray follows its text.

The maps are rasterised on the CPU by `scenes.urban.raster`; tests compare every pixel with Embree
and with a brute-force search.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from geo3d.layout.classes import PALETTE
from geo3d.layout.layout import Layout
from geo3d.mesh.ops import faces_per_edge
from geo3d.render.cameras import Camera
from scenes.urban import raster

KITTI_SIZE = 512
KITTI_FOCAL = 552.554261
KITTI_CENTRE = (234.049453, 306.769549)
"""The published virtual camera: KITTI-360's focal length and offset of the principal point."""

SURFACES = 8
"""How many surfaces of a ray the published far looks at."""
EMPTY_NEAR, EMPTY_FAR = 199.5, 200.0
LEAST_DEPTH, FLAT_DEPTH = 5.0, 0.5
MAX_DEPTH = 200.0
"""Metres by which the depth of the condition image is divided."""
COINCIDENT = 1e-5
"""Relative distance below which two surfaces count once."""
OPEN_THICKNESS = 0.5
"""Metres of matter behind each surface of a mesh that is not closed."""
_BANDS_PER_THREAD = 4


@dataclass(frozen=True)
class LayoutMaps:
    """What every pixel sees."""

    depth: Float[np.ndarray, "h w"]
    """z-depth of the first surface in metres, float32; -1 where there is none."""
    label: Int[np.ndarray, "h w"]
    """Class id, int8; -1 none."""
    instance: Int[np.ndarray, "h w"]
    """Index of the primitive in the layout, int32; -1 none."""
    near: Float[np.ndarray, "h w"] | None = None
    """The published interval's ends, float32; 199.5 and 200 where nothing is."""
    far: Float[np.ndarray, "h w"] | None = None
    segments: Float[np.ndarray, "h w s 2"] | None = None
    """Enter and leave depths of the ray inside primitives: sorted, disjoint, float32.  Unused
    places at the end repeat the last leave depth (length 0); all are 0 where nothing is."""


class RayScene:
    """A layout made ready for maps from any camera.

    Args:
        layout: may be empty.
        threads: how many draw one image; the processors' number, or ``OMP_NUM_THREADS``, if None.
    """

    def __init__(self, layout: Layout, threads: int | None = None) -> None:
        vertices, faces, _, _ = layout.triangles()
        self.threads = threads or int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
        self._vertices = np.ascontiguousarray(vertices, np.float64)
        self._faces = np.ascontiguousarray(faces, np.int64)
        self._vertex_ranges = _ranges([len(p.vertices) for p in layout.primitives])
        self._face_ranges = _ranges([len(p.faces) for p in layout.primitives])
        boxes = layout.primitive_bounds()
        self._centres = boxes.mean(axis=1)
        self._radii = np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=1) / 2
        self._layout = layout
        self._classes = np.array([p.class_id for p in layout.primitives] + [-1], np.int8)
        self._thickness = np.array(
            [
                0.0 if p.kind != "mesh" or is_closed(p.vertices, p.faces) else OPEN_THICKNESS
                for p in layout.primitives
            ]
        )

    def maps(
        self,
        camera: Camera,
        segments: bool = True,
        *,
        max_segments: int = 8,
        compat: bool = False,
    ) -> LayoutMaps:
        """Return the maps of one camera.

        Args:
            camera: pose and intrinsics; its size is that of the maps.
            segments: whether near, far and segments are wanted too.
            max_segments: intervals kept per ray; those behind are merged into the last.
            compat: as the release: coincident surfaces count one by one in far, and triangles that
                reach behind the camera are lost.  Segments then make no sense.
        """
        planes, box, owner = self._released(camera) if compat else self._triangles(camera)
        shape = (camera.height, camera.width)
        inverse, instance = np.zeros(shape), np.full(shape, -1, np.int32)
        self._share(
            camera.height,
            lambda a, b: raster.draw_first(planes, box, owner, a, b, inverse, instance),
        )
        depth = np.full(shape, -1.0, np.float32)
        np.divide(1.0, inverse, out=depth, where=instance >= 0, casting="same_kind")
        label = self._classes[instance]
        if not segments:
            return LayoutMaps(depth, label, instance)
        near, far, inside = self._intervals(planes, box, owner, shape, max_segments, compat)
        return LayoutMaps(depth, label, instance, near, far, inside)

    def _triangles(self, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen = self._maybe_seen(camera)
        faces = np.concatenate([self._face_ranges[seen], seen[:, None]], axis=1)
        return self._set_up(camera, self._vertices, self._faces, self._vertex_ranges[seen], faces)

    def _set_up(
        self,
        camera: Camera,
        vertices: np.ndarray,
        faces: np.ndarray,
        vertex_ranges: np.ndarray,
        face_ranges: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the planes, pixel boxes and primitives of the triangles that may be seen."""
        points = np.empty_like(vertices)
        rotation = np.ascontiguousarray(camera.c2w[:3, :3], np.float64)
        position = np.ascontiguousarray(camera.position, np.float64)
        intrinsics = (float(camera.fx), float(camera.fy), float(camera.cx), float(camera.cy))
        raster.project(vertices, vertex_ranges, rotation, position, intrinsics, points)
        most = int((face_ranges[:, 1] - face_ranges[:, 0]).sum())
        planes, box = np.empty((most, 12)), np.empty((most, 4), np.int64)
        owner = np.empty(most, np.int32)
        size = (camera.width, camera.height)
        count = raster.set_up(points, faces, face_ranges, size, planes, box, owner)
        return planes[:count], box[:count], owner[:count]

    def _released(self, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        vertices, faces, owner = kept_triangles(self._layout, camera)
        vertices = np.ascontiguousarray(vertices, np.float64)
        # one range per triangle: the pieces of a primitive are not counted beforehand
        first = np.arange(len(faces))
        ranges = np.stack([first, first + 1, owner], axis=1).astype(np.int64)
        return self._set_up(camera, vertices, faces, _ranges([len(vertices)]), ranges)

    def _maybe_seen(self, camera: Camera) -> np.ndarray:
        """Return the primitives whose bounding balls reach into the camera's pyramid."""
        x, y, z = ((self._centres - camera.position) @ camera.c2w[:3, :3]).T
        inside = z > -self._radii
        for along, focal, centre, size in (
            (x, camera.fx, camera.cx, camera.width),
            (y, camera.fy, camera.cy, camera.height),
        ):
            # the planes along * focal + centre * z = 0 and = size * z
            for sign, offset in ((1.0, centre), (-1.0, size - centre)):
                reach = self._radii * np.hypot(focal, offset)
                inside &= sign * along * focal + offset * z > -reach
        return np.flatnonzero(inside)

    def _intervals(
        self,
        planes: np.ndarray,
        box: np.ndarray,
        owner: np.ndarray,
        shape: tuple[int, int],
        most: int,
        compat: bool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        counts = np.zeros(shape, np.int64)
        self._share(shape[0], lambda a, b: raster.count_hits(planes, box, a, b, counts))
        starts = (np.cumsum(counts) - counts.ravel()).reshape(shape)
        total = int(counts.sum())
        depth, primitive = np.empty(total), np.empty(total, np.int32)
        near, far = np.full(shape, -1.0), np.full(shape, -1.0)
        inside = np.zeros((*shape, most, 2), np.float32)
        used = np.zeros(shape, np.int64)
        same = 0.0 if compat else COINCIDENT

        def work(a: int, b: int) -> None:
            raster.list_hits(planes, box, owner, a, b, starts, depth, primitive)
            raster.hull(depth, starts, counts, SURFACES, same, (a, b), near, far)
            raster.insides(depth, primitive, starts, counts, self._thickness, (a, b), inside, used)

        self._share(shape[0], work)
        inside = inside[:, :, : max(1, int(used.max(initial=0)))]
        last = np.take_along_axis(inside[..., 1], np.maximum(used - 1, 0)[..., None], axis=2)
        unused = np.arange(inside.shape[2]) >= used[..., None]
        inside = np.where(unused[..., None], last[..., None], inside)
        near, far = published_interval(near, far)
        return near.astype(np.float32), far.astype(np.float32), inside

    def _share(self, height: int, work: Callable[[int, int], None]) -> None:
        """Let the threads work on bands of rows."""
        if self.threads == 1:
            work(0, height)
            return
        edges = np.linspace(0, height, self.threads * _BANDS_PER_THREAD + 1).astype(int)
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(work, edges[:-1].tolist(), edges[1:].tolist()))


def published_interval(
    near: Float[np.ndarray, "h w"], far: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Apply the release's rules to first and last surface (-1: none): at least 5 m thick."""
    far = np.where(far == near, near + FLAT_DEPTH, far)
    far = np.where(far - near < LEAST_DEPTH, near + LEAST_DEPTH, far)
    empty = near < 0
    return np.where(empty, EMPTY_NEAR, near), np.where(empty, EMPTY_FAR, far)


def intrinsics_kitti(width: int, height: int) -> tuple[float, float, float, float]:
    """Return fx, fy, cx, cy of the published virtual camera at this size."""
    x, y = width / KITTI_SIZE, height / KITTI_SIZE
    return KITTI_FOCAL * x, KITTI_FOCAL * y, KITTI_CENTRE[0] * x, KITTI_CENTRE[1] * y


def street_camera(c2w: Float[np.ndarray, "4 4"], size: int) -> Camera:
    """Return the published virtual camera at a pose.

    Raises:
        InputError: ``camera.bad_pose``, ``camera.bad_size``.
    """
    return Camera(np.asarray(c2w, np.float64), *intrinsics_kitti(size, size), size, size)


def semantic_colors(label: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w 3"]:
    """Return the palette's colours, uint8; black where nothing is."""
    return np.concatenate([PALETTE, np.zeros((1, 3), np.uint8)])[label]


def condition_image(maps: LayoutMaps, size: int | None = None) -> Float[np.ndarray, "4 h w"]:
    """Return the ControlNet's input: class colours in [-1, 1], then depth / 200 (0 where none).

    Args:
        maps: of the size to use, or smaller.
        size: side of the image to return, float32; other than that of the maps, both are resized
            bilinearly as the release does.
    """
    colors = semantic_colors(maps.label).astype(np.float32) / 127.5 - 1.0
    depth = np.where(maps.depth < 0, 0.0, maps.depth).astype(np.float32) / MAX_DEPTH
    image = np.concatenate([colors.transpose(2, 0, 1), depth[None]]).astype(np.float32)
    if size is None or size == image.shape[1] == image.shape[2]:
        return image
    return _resize(_resize(image, size, 1), size, 2)


def is_closed(vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> bool:
    """Return whether every edge belongs to exactly two faces; equal vertices count as one."""
    _, same = np.unique(vertices, axis=0, return_inverse=True)
    return bool((faces_per_edge(same.reshape(-1)[faces]) == 2).all())


def _ranges(counts: list[int]) -> np.ndarray:
    """Return first and last + 1 of consecutive groups, (n, 2)."""
    ends = np.cumsum(counts, dtype=np.int64)
    return np.stack([ends - np.array(counts, np.int64), ends], axis=1)


def _resize(image: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Interpolate linearly between pixel centres along one axis."""
    old = image.shape[axis]
    place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = place.astype(int)
    high = np.minimum(low + 1, old - 1)
    shape = [1] * image.ndim
    shape[axis] = size
    part = (place - low).reshape(shape).astype(image.dtype)
    return image.take(low, axis) * (1 - part) + image.take(high, axis) * part


PASSES = {
    **dict.fromkeys(("road", "sidewalk", "ground"), 5),
    "building": 3,
    "rail track": 2,
    **dict.fromkeys(("pole", "car", "truck", "bus", "terrain"), 1),
}
"""How often the release cuts the triangles of a class."""
_BEHIND = 1e-8


def kept_triangles(
    layout: Layout, camera: Camera
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"], Int[np.ndarray, " f"]]:
    """Return vertices, faces and primitive indices of the triangles that the release draws.

    Triangles wholly before the camera are kept as they are; of those that reach behind it, the
    pieces before it.
    """
    vertices, faces, owner, _ = layout.triangles()
    passes = np.array([PASSES.get(p.name, 0) for p in layout.primitives])[owner]
    depth = (vertices - camera.position) @ camera.c2w[:3, 2]
    behind = depth[faces] < _BEHIND
    whole = ~behind.any(axis=1)
    corners, owners = [vertices[faces[whole]]], [owner[whole]]
    reaching = behind.any(axis=1) & ~behind.all(axis=1)
    for count in range(1, max(PASSES.values()) + 1):
        chosen = reaching & (passes == count)
        pieces, of = vertices[faces[chosen]], owner[chosen]
        for _ in range(count):
            pieces, of = _cut(pieces), np.tile(of, 4)
        before = (((pieces - camera.position) @ camera.c2w[:3, 2]) >= _BEHIND).all(axis=1)
        corners.append(pieces[before])
        owners.append(of[before])
    soup, index = np.concatenate(corners), np.concatenate(owners)
    # earlier primitives win where surfaces coincide, so the order matters
    order = np.argsort(index, kind="stable")
    return soup[order].reshape(-1, 3), np.arange(3 * len(soup)).reshape(-1, 3), index[order]


def _cut(corners: Float[np.ndarray, "f 3 3"]) -> Float[np.ndarray, "g 3 3"]:
    """Cut triangles at the middles of their edges into four."""
    a, b, c = corners.transpose(1, 0, 2)
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    parts = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
    return np.concatenate([np.stack(part, axis=1) for part in parts])
