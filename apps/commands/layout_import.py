"""Make a layout of a foreign file: a data set's boxes, a map, a model of a city, roads.

  geo3d layout import extract.osm --out street.json --length 80
  geo3d layout import city.json --as cityjson --drive "85000 446500, 85000 446580"
  geo3d layout import SEQ.xml --poses cam0_to_world.txt --frames 200 400

What it is, is told by the file or by --as.  Classes that are not known become unknown objects and
are named with their numbers.  The layout can be given to `geo3d scene`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from apps.commands import add_common, emit
from geo3d.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d layout import``."""
    parser.add_argument("file", help="a file, or the folder of nuScenes' tables")
    parser.add_argument("--out", metavar="FILE", help="layout to write (default: beside the file)")
    parser.add_argument("--as", dest="format", metavar="FORMAT", default="", help="its format")
    parser.add_argument("--poses", metavar="FILE", help="of KITTI-360, or Waymo's vehicle_pose")
    parser.add_argument(
        "--frames", metavar="N", nargs=2, type=int, help="first and last frame of KITTI-360"
    )
    parser.add_argument("--scene", metavar="NAME", default="", help="of nuScenes")
    parser.add_argument(
        "--drive", metavar="LINE", help="'X Y, X Y, ...' to drive along, in the file's coordinates"
    )
    parser.add_argument("--length", metavar="M", type=float, help="metres of the drive to keep")
    parser.add_argument(
        "--start", metavar="M", type=float, default=0.0, help="metres of the drive left out before"
    )
    add_common(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Write the layout, tell what is in it and what is wrong with it."""
    from geo3d.files import slug
    from geo3d.layout.layout import piece
    from scenes.urban.imports.door import ImportOptions, import_layout
    from scenes.urban.layout_json import save_layout
    from scenes.urban.validate import check_layout

    path = Path(args.file)
    options = ImportOptions(
        args.format,
        Path(args.poses) if args.poses else None,
        tuple(args.frames) if args.frames else None,
        args.scene,
        _line(args.drive),
    )
    made = import_layout(path, options)
    layout = made.layout
    if args.length is not None or args.start:
        layout = piece(layout, float("inf") if args.length is None else args.length, args.start)
    name = f"{slug(path.stem.removesuffix('.city'))}.layout.json"
    out = save_layout(layout, Path(args.out) if args.out else path.with_name(name))
    findings = check_layout(layout)
    payload = {
        "path": str(out),
        "primitives": len(layout.primitives),
        "cameras": len(layout.trajectory),
        "not_known": dict(made.mapped),
        "left_out": dict(made.skipped),
        "findings": [vars(finding) for finding in findings],
    }
    lines = [f"{out}: {len(layout.primitives)} primitives, {len(layout.trajectory)} cameras"]
    lines += [f"  {line}" for line in made.lines()]
    lines += [f"  {f.severity}: [{f.code}] {f.message}" for f in findings]
    emit(args, payload, "\n".join(lines))
    return 0


def _line(text: str | None) -> np.ndarray | None:
    """Return the points of ``--drive``.

    Raises:
        ConfigError: ``layout_file.bad_drive``.
    """
    if text is None:
        return None
    try:
        line = np.array([[float(n) for n in pair.split()] for pair in text.split(",")])
        if line.ndim != 2 or line.shape[1] != 2 or len(line) < 2 or not np.isfinite(line).all():
            raise ValueError("two points or more, two numbers each")
    except ValueError as error:
        raise ConfigError(
            "layout_file.bad_drive",
            f"{text!r} is no line: {error}.",
            "Write 'X Y, X Y, ...', on maps in degrees 'LONGITUDE LATITUDE, ...'.",
        ) from error
    return line
