"""What the tab Scene shows of a street: the map, the layout in 3D, what a camera sees, the drive.

The map has z to the right and x downwards: the street runs across the page, seen from above.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from apps.report.shapes import Group, Model, model_of, page_sized, read_model
from apps.viewer import fragments
from apps.viewer.scene_edit import Street, size_of, yaw_of
from geo3d.errors import Geo3dError
from geo3d.files import new_id
from geo3d.layout.classes import PALETTE
from geo3d.layout.layout import Layout
from geo3d.mesh.mesh import Mesh
from geo3d.render.shading import ramp_colors
from scenes.urban.conditions import LayoutMaps, RayScene, semantic_colors, street_camera
from scenes.urban.plan import outline, plan_window

CONDITION_SIDE = 320
NEAR_M, FAR_M = 3.0, 80.0
DEPTH_RAMP = np.array(
    [(253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (68, 1, 84)], np.float64
)
"""Near to far, even steps of 1 / depth's logarithm."""
MAX_FRAMES = 64
MAX_FRAME_BYTES = 8 << 20
WEDGE_M = 9.0
_CLASS_WORDS = {
    0: "vehicle",
    1: "person",
    2: "two-wheeler",
    3: "pole, sign",
    4: "bin",
    5: "road",
    6: "sidewalk",
    7: "parking",
    8: "building, wall",
    9: "fence",
    10: "vegetation",
    11: "terrain",
    12: "rail",
    13: "other",
}


def plan(street: Street) -> str:
    """Return the map as SVG that viewer.js lets one edit.

    Each drawing has another mark: a page leaves text that equals what it shows as it is, with
    whatever was dragged on it.
    """
    layout = street.layout
    x0, x1, z0, z1 = plan_window(layout)
    shapes = "".join(_polygon(layout, i) for i in _from_low_to_high(layout))
    drive = " ".join(f"{z:.2f},{x:.2f}" for x, z in layout.trajectory[:, [0, 2], 3])
    view = f"{z0:.2f} {x0:.2f} {z1 - z0:.2f} {x1 - x0:.2f}"
    return (
        f'<svg class="g3-plan" viewBox="{view}" tabindex="0" role="application" '
        f'aria-label="Map of the street, seen from above" data-street="{escape(street.key)}" '
        f'data-drawn="{new_id()}" data-view="{view}" '
        f'data-selected="{escape(street.selected, quote=True)}">'
        '<defs><pattern id="g3-grid" width="10" height="10" patternUnits="userSpaceOnUse">'
        '<path d="M10 0H0V10" class="g3-grid"/></pattern></defs>'
        '<rect x="-20000" y="-20000" width="40000" height="40000" fill="url(#g3-grid)"/>'
        f'{shapes}<polyline class="g3-route" points="{drive}"/>{_wedge(street)}</svg>'
    )


def layout_model(layout: Layout) -> Model:
    """Return the layout in the colours of its classes, flat-shaded, y up."""
    vertices, faces, _, classes = layout.triangles()
    corners = vertices[faces].reshape(-1, 3) * [1.0, -1.0, -1.0]
    colors = np.repeat(PALETTE[classes], 3, axis=0)
    mesh = Mesh(corners, np.arange(len(corners)).reshape(-1, 3), colors)
    return model_of(mesh, "Layout")


def shapes(layout: Layout, run: Path | None) -> Group:
    """Return the layout and, of a finished scene, its Gaussians and its mesh beside it."""
    models, notes = [page_sized(layout_model(layout))], []
    for title, name in (("Scene, Gaussians", "gaussians.ply"), ("Scene, mesh", "mesh.glb")):
        path = run / "outputs" / name if run else None
        try:
            if path is not None and path.is_file():
                models.append(replace(page_sized(read_model(path, is_down=True)), title=title))
        except Geo3dError as error:
            notes.append(f"{title}: {error.message}")
    return Group(models, True, notes)


def conditions(street: Street) -> str:
    """Return what the chosen camera sees of the layout: classes and depth, as HTML."""
    pose = street.layout.trajectory[street.camera]
    camera = street_camera(pose, CONDITION_SIDE)
    maps = RayScene(street.layout).maps(camera, segments=False)
    seen = [int(i) for i in np.unique(maps.label) if i >= 0]
    chips = "".join(
        f'<span><i style="background: rgb({r}, {g}, {b})"></i>{escape(_CLASS_WORDS[i])}</span>'
        for i, (r, g, b) in zip(seen, PALETTE[seen].tolist(), strict=True)
    )
    ramp = fragments.scale(DEPTH_RAMP.tolist(), f"{NEAR_M:g} m", f"{FAR_M:g} m or more", "Depth")
    return (
        '<div class="g3-card"><div class="g3-maps">'
        f"{_image(semantic_colors(maps.label), 'Classes that the camera sees')}"
        f"{_image(depth_colors(maps), 'Depth that the camera sees')}</div>"
        f'<div class="g3-legend g3-wrap">{chips}</div>{ramp}</div>'
    )


def depth_colors(maps: LayoutMaps) -> UInt8[np.ndarray, "h w 3"]:
    """Return depth as colours, near bright; nothing is white."""
    depth = np.clip(maps.depth, NEAR_M, FAR_M)
    colors = ramp_colors(DEPTH_RAMP, np.log(depth / NEAR_M) / np.log(FAR_M / NEAR_M))
    colors[maps.depth < 0] = 255
    return colors


def layout_card(layout: Layout) -> str:
    """Return name and size of a layout, as HTML."""
    low, high = layout.bounds()
    places = layout.trajectory[:, :3, 3]
    way = float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())
    facts = [
        ("Layout", layout.name, "Its name in the file"),
        ("Things", f"{len(layout.primitives):,}", "Primitives of the layout"),
        ("Drive", f"{way:.0f} m", f"{len(places)} cameras"),
        ("Extent", f"{high[0] - low[0]:.0f} × {high[2] - low[2]:.0f} m", "Across and along"),
    ]
    return fragments.facts_card(facts, (), "")


def selection(street: Street) -> str:
    """Return what is selected, and what is odd about the layout, as HTML."""
    warnings = [f.message for f in street.findings if f.severity == "warning"]
    if not street.selected:
        mark = fragments.badge("neutral", "nothing selected")
        facts = [("Things", f"{len(street.layout.primitives):,}", "Primitives of the layout")]
    else:
        thing = street.layout.primitive(street.selected)
        width, height, length = size_of(thing)
        mark = fragments.badge("info", thing.name)
        facts = [
            ("Id", thing.id, "Its name in the layout file"),
            ("Size, m", f"{width:.1f} × {height:.1f} × {length:.1f}", "Width, height, length"),
            ("Heading", f"{np.degrees(yaw_of(thing)):.0f}°", "0 along the map's z, to the right"),
            ("Style", thing.style or "as the scene", "Words about this thing"),
        ]
    shown = warnings[:3] + ([f"and {len(warnings) - 3} more"] if len(warnings) > 3 else [])
    return fragments.facts_card(facts, shown, mark)


def drive(frames: Sequence[Path]) -> str:
    """Return a player of the frames along the drive, as HTML that viewer.js makes run."""
    chosen = _thinned(frames)
    if not chosen:
        return ""
    images = "".join(
        fragments.image(path.read_bytes(), f"Frame {i + 1} of the drive", hidden=i > 0)
        for i, path in enumerate(chosen)
    )
    last = len(chosen) - 1
    return (
        f'<figure class="g3-card g3-player"><div class="g3-frames">{images}</div>'
        '<figcaption><button type="button" aria-label="Play or pause">▶</button>'
        f'<input type="range" min="0" max="{last}" value="0" aria-label="Frame of the drive">'
        f'<output class="g3-dim">1 / {last + 1}</output></figcaption></figure>'
    )


def _polygon(layout: Layout, index: int) -> str:
    thing = layout.primitives[index]
    points = " ".join(f"{z:.2f},{x:.2f}" for x, z in outline(thing))
    color = "rgb({}, {}, {})".format(*PALETTE[thing.class_id])
    if thing.kind == "slab":
        return f'<polygon class="g3-ground" points="{points}" fill="{color}"/>'
    low, high = thing.bounds()
    x, _, z = (low + high) / 2
    id = escape(thing.id, quote=True)
    words = escape(f"{thing.name}: {thing.id}" + (f", {thing.style}" if thing.style else ""))
    return (
        f'<polygon class="g3-thing" data-id="{id}" data-x="{x:.3f}" data-z="{z:.3f}" '
        f'data-yaw="{yaw_of(thing):.4f}" points="{points}" fill="{color}"><title>{words}</title>'
        "</polygon>"
    )


def _from_low_to_high(layout: Layout) -> Iterable[int]:
    """Return indices of primitives by their upper side; slabs first."""
    slabs = np.array([p.kind == "slab" for p in layout.primitives])
    return (int(i) for i in np.lexsort((-layout.primitive_bounds()[:, 0, 1], ~slabs)))


def _wedge(street: Street) -> str:
    pose = street.layout.trajectory[street.camera]
    heading = np.degrees(np.arctan2(pose[0, 2], pose[2, 2]))
    x, z = pose[0, 3], pose[2, 3]
    side = 0.45 * WEDGE_M
    return (
        f'<g class="g3-wedge" transform="translate({z:.2f} {x:.2f}) rotate({heading:.1f})">'
        f'<path d="M0 0L{WEDGE_M} {-side}L{WEDGE_M} {side}Z"/><circle r="0.8"/></g>'
    )


def _image(pixels: Float[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w 3"], alt: str) -> str:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG", compress_level=3)
    return fragments.image(file.getvalue(), alt)


def _thinned(frames: Sequence[Path]) -> list[Path]:
    """Return frames evenly, few and small enough for the page."""
    size = sum(path.stat().st_size for path in frames)
    most = min(len(frames), MAX_FRAMES, int(MAX_FRAME_BYTES / max(size / max(len(frames), 1), 1)))
    places = np.linspace(0, len(frames) - 1, max(most, 1)).round().astype(int) if frames else ()
    return [frames[i] for i in places]
