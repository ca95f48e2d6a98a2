"""Which triangles the release's rasteriser loses.

It drops every triangle with a vertex behind the camera, and therefore cuts large primitives into
smaller triangles first (each pass into four) -- but not vegetation, walls and most of the rest.
Only used for comparison with the release (``compat``).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from geo3d.layout.layout import Layout
from geo3d.render.cameras import Camera

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
