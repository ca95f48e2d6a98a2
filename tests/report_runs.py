"""Small runs for tests of what is shown of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from helpers import bumpy_sphere, permuted
from PIL import Image

from geo3d.mesh.io import save_mesh
from geo3d.mesh.mesh import Mesh
from geo3d.render.shading import position_colors, transfer_colors
from geo3d.runs import Run, start_run

SPLAT_COLUMNS = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)


def plain_run(
    root: Path,
    verb: str = "bench",
    numbers: Mapping[str, Any] | None = None,
    name: str = "plain",
    argv: Sequence[str] = (),
) -> Run:
    """Return a finished run with a picture."""
    with start_run(verb, name, root=root, argv=["geo3d", verb, *argv]) as run:
        Image.new("RGB", (40, 30), "teal").save(run.previews / "picture.png")
        run.finish(numbers or {"error": 1.5})
    return run


def match_run(root: Path, subdivisions: int = 2) -> tuple[Run, np.ndarray]:
    """Return a run as ``geo3d match`` leaves it, and its map."""
    source = bumpy_sphere(subdivisions)
    target, p2p = permuted(source)
    colors = position_colors(source)
    with start_run("match", "one-two", root=root, argv=["geo3d", "match", "a.off", "b.off"]) as run:
        shades = transfer_colors(colors, p2p)
        for mesh, name, shown in (
            (source, "source", colors),
            (target, "target", shades),
            (target, "confidence", shades),
        ):
            colored = Mesh(mesh.vertices, mesh.faces, shown)
            save_mesh(colored, run.outputs / f"{name}.glb")
        sure = np.linspace(0, 1, len(p2p))
        np.savez(run.outputs / "map.npz", p2p_21=p2p, confidence=sure)
        Image.new("RGB", (40, 30), "teal").save(run.previews / "match.png")
        run.finish({"probability": 0.9, "ambiguous": False, "mean_confidence": 0.5, "seconds": 3.0})
    return run, p2p


def save_splats(path: Path, places: np.ndarray, scales: np.ndarray | None = None) -> None:
    """Write Gaussians, red and nearly opaque."""
    table = np.zeros((len(places), len(SPLAT_COLUMNS)), np.float32)
    table[:, :3] = places
    table[:, 6] = 1.5
    table[:, 9] = 4.0
    table[:, 10:13] = np.log(0.05 if scales is None else scales)
    table[:, 13] = 1.0
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(places)}"]
    head += [f"property float {name}" for name in SPLAT_COLUMNS] + ["end_header", ""]
    path.write_bytes("\n".join(head).encode() + table.tobytes())
