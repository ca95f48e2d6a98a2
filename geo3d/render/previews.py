"""Images for people: matched shapes side by side, sheets with labels, PNG files.

Notation: h w image (uint8 sRGB); ``p2p_21`` gives each target vertex its source vertex.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from geo3d.errors import InputError
from geo3d.files import atomic_path
from geo3d.mesh.mesh import Mesh
from geo3d.render.cameras import DEFAULT_ELEVATION, orbit, principal_azimuth
from geo3d.render.shading import (
    DEFAULT_STYLE,
    UNKNOWN_COLOR,
    Style,
    error_colors,
    position_colors,
    render_mesh,
    transfer_colors,
)

__all__ = [
    "contact_sheet",
    "display_azimuth",
    "error_colors",
    "match_image",
    "match_preview",
    "position_colors",
    "render_mesh",
    "save_png",
    "shaded_view",
    "transfer_colors",
]

THREE_QUARTER = 0.45
"""Angle by which images turn off the broadest view, so that depth shows."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_LABEL_HEIGHT = 26
_INK = (40, 40, 44)


def shaded_view(
    mesh: Mesh,
    vertex_colors: UInt8[np.ndarray, "v 3"] | None = None,
    *,
    azimuth: float | None = None,
    up: str = "y",
    size: int = 512,
    style: Style = DEFAULT_STYLE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the mesh framed from ``azimuth``, by default a three-quarter view.

    Raises:
        InputError: ``camera.bad_up``, ``render.bad_colors``.
    """
    if azimuth is None:
        azimuth = display_azimuth(mesh, up=up)
    camera = orbit(mesh, azimuth, DEFAULT_ELEVATION, up=up, size=size)
    return render_mesh(mesh, camera, vertex_colors, style)


def display_azimuth(mesh: Mesh, *, up: str = "y") -> float:
    """Return the broadest view's azimuth turned a little towards the front."""
    broadest = principal_azimuth(mesh, up=up)
    turned = abs(broadest) - THREE_QUARTER
    return float(np.copysign(turned, broadest)) if turned > 0 else THREE_QUARTER


def match_image(
    source: Mesh,
    target: Mesh,
    p2p_21: Int[np.ndarray, " n2"],
    *,
    covered: Bool[np.ndarray, " n1"] | None = None,
    errors: Float[np.ndarray, " n2"] | None = None,
    max_error: float | None = None,
    up: str = "y",
    size: int = 512,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return source and target side by side in one view, matched vertices in the same colour.

    Args:
        covered: which source vertices have a counterpart; the others are grey, as are target
            vertices that map to -1.
        errors: error per target vertex; adds a third image and its scale.
        max_error: end of the error scale; by default the largest finite error.

    Raises:
        InputError: ``preview.bad_map``, ``colors.index_out_of_range``, ``camera.bad_up``.
    """
    if len(p2p_21) != target.n_vertices:
        raise InputError(
            "preview.bad_map",
            f"The map has {len(p2p_21)} entries, the target has {target.n_vertices} vertices.",
            "p2p_21 has one entry per target vertex.",
        )
    azimuth = display_azimuth(source, up=up)
    colors = position_colors(source)
    if covered is not None:
        colors[~covered] = UNKNOWN_COLOR
    panels = [(source, colors), (target, transfer_colors(colors, p2p_21))]
    labels = [f"source: {source.name}", f"target: {target.name}"]
    if errors is not None:
        finite = errors[np.isfinite(errors)]
        top = max_error if max_error is not None else float(finite.max(initial=0.0))
        panels.append((target, error_colors(errors, top)))
        labels.append(f"error 0 to {top:.3g}")
    images = [shaded_view(m, c, azimuth=azimuth, up=up, size=size) for m, c in panels]
    if errors is not None:
        images[-1] = _with_scale(images[-1])
    return contact_sheet(images, labels, columns=len(images))


def match_preview(
    source: Mesh,
    target: Mesh,
    p2p_21: Int[np.ndarray, " n2"],
    path: str | Path,
    *,
    errors: Float[np.ndarray, " n2"] | None = None,
    max_error: float | None = None,
    size: int = 512,
) -> Path:
    """Write `match_image` as a PNG and return its path.

    Raises:
        InputError: as `match_image`.
    """
    image = match_image(source, target, p2p_21, errors=errors, max_error=max_error, size=size)
    return save_png(image, path)


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    labels: Sequence[str] = (),
    *,
    columns: int | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the images in a grid on white, each with its label below; cells are as the largest.

    Raises:
        InputError: ``preview.no_images``, ``preview.label_count``.
    """
    if not images:
        raise InputError("preview.no_images", "There are no images for the sheet.", "")
    if labels and len(labels) != len(images):
        raise InputError(
            "preview.label_count", f"{len(labels)} labels for {len(images)} images.", ""
        )
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    cell = height + (_LABEL_HEIGHT if labels else 0)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width, rows * cell), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for i, image in enumerate(images):
        left, top = (i % columns) * width, (i // columns) * cell
        sheet.paste(
            Image.fromarray(image),
            (left + (width - image.shape[1]) // 2, top + (height - image.shape[0]) // 2),
        )
        if labels:
            text = _fit(draw, labels[i], font, width - 8)
            draw.text((left + width / 2, top + height + 4), text, fill=_INK, font=font, anchor="ma")
    return np.asarray(sheet)


def save_png(image: UInt8[np.ndarray, "h w 3"], path: str | Path) -> Path:
    """Write a PNG beside ``path``, then move it into place; return the path."""
    path = Path(path)
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", optimize=True)
    return path


def _fit(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    """Shorten ``text`` with an ellipsis until it is at most ``width`` pixels long."""
    shown = text
    while len(shown) > 1 and draw.textlength(shown, font=font) > width:
        text = text[:-1]
        shown = text + "…"
    return shown


def _with_scale(image: np.ndarray) -> np.ndarray:
    """Paint the error scale, 0 on the left, along the image's lower edge."""
    height, width = image.shape[:2]
    bar = error_colors(np.linspace(0, 1, width * 3 // 5), 1.0)
    thickness = max(4, height // 50)
    left = (width - len(bar)) // 2
    image = image.copy()
    image[height - 2 * thickness : height - thickness, left : left + len(bar)] = bar
    return image
