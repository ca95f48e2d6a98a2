"""Look for defects in a mesh file, and repair it if asked to.

The content decides the format, not the name.  Repairs are applied in the order given; --out writes
the repaired mesh and, beside it, NAME.maps.npz with vertex_map and face_map (the new index of each
old vertex and face, -1 if removed).  Exit code 3 if errors remain, 6 if the file is too large.
"""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path
from typing import Any

from apps.commands import add_common, emit
from geo3d.errors import ConfigError
from geo3d.files import atomic_write_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d check``."""
    parser.add_argument("file", metavar="FILE", help="mesh: obj, off, ply, stl or glb")
    parser.add_argument(
        "--repair",
        metavar="NAME",
        action="extend",
        nargs="+",
        default=[],
        help="apply these repairs in this order (an unknown name lists the known ones)",
    )
    parser.add_argument("--out", metavar="FILE", help="write the (repaired) mesh here")
    parser.add_argument(
        "--self-intersections",
        action="store_true",
        help="also search for faces that pass through each other (slower)",
    )
    add_common(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Print the report; repair and write if asked to."""
    from geo3d.mesh.check import check_file

    names = [name for text in args.repair for name in text.split(",") if name]
    _refuse_usage_errors(args, names)
    report = check_file(args.file, self_intersections=args.self_intersections)
    result, lines = report.to_dict(), [report.summary()]
    if report.format and (names or args.out):
        report = _repair(args, names, result, lines)
    emit(args, result, "\n".join(lines))
    if any(code.startswith("mesh_file.too_many") for code in report.codes()):
        return 6
    return 0 if report.healthy else 3


def _refuse_usage_errors(args: argparse.Namespace, names: list[str]) -> None:
    from geo3d.mesh.io import require_writable
    from geo3d.mesh.repair import require_known

    require_known(names)
    if args.out:
        require_writable(args.out)
        if os.path.realpath(args.out) == os.path.realpath(args.file):
            raise ConfigError(
                "check.same_file", "--out would overwrite the file itself.", "Choose another name."
            )


def _repair(
    args: argparse.Namespace, names: list[str], result: dict[str, Any], lines: list[str]
) -> Any:
    import numpy as np

    from geo3d.mesh.check import check_arrays
    from geo3d.mesh.io import read_raw, save_mesh
    from geo3d.mesh.repair import repair

    repaired = repair(read_raw(args.file), names, Path(args.file).stem)
    mesh = repaired.mesh
    after = check_arrays(
        mesh.vertices, mesh.faces, self_intersections=args.self_intersections, name="after repair"
    )
    result["repair"] = {"log": list(repaired.log), "after": after.to_dict()}
    lines += [*(f"  {line}" for line in repaired.log), after.summary()]
    if args.out:
        out = save_mesh(mesh, args.out)
        maps = io.BytesIO()
        np.savez(maps, vertex_map=repaired.vertex_map, face_map=repaired.face_map)
        maps_path = atomic_write_bytes(out.with_suffix(".maps.npz"), maps.getvalue())
        result["repair"] |= {"out": str(out), "maps": str(maps_path)}
        lines.append(f"wrote {out} and {maps_path}")
    return after
