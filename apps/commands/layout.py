"""Layouts of streets: read them from the files of others, check them, look at them.

geo3d layout import extract.osm --out street.json        a map; also GeoJSON, CityJSON, OpenDRIVE
geo3d layout import SEQ.xml --poses cam0_to_world.txt --frames 200 400
geo3d layout import v1.0-mini --scene scene-0061          nuScenes; also Waymo's boxes
geo3d layout check street.json                           what is wrong with it, by name
geo3d layout show street.json --out street.png           the plan, and what its cameras see
"""

from __future__ import annotations

import argparse

from apps.commands import add_parts

PARTS = {
    "import": "make a layout of a foreign file",
    "check": "say what is wrong with a layout",
    "show": "draw the plan of a layout and what its cameras see",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the parts and their flags."""
    add_parts(parser, "layout", PARTS)


def run(args: argparse.Namespace) -> int:
    """Run the chosen part."""
    return args.run_part(args)
