"""Street files whose structure is odd, not their bytes: an entry is gone, or of another kind.

What `fuzz.readers` damages mostly no longer parses; here every file parses.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import street_files

from geo3d.errors import Geo3dError
from scenes.urban.imports.door import ImportOptions, import_layout

ODD: tuple[Any, ...] = (
    *(None, "", [], {}, True, -1, 0, 1e308, float("nan"), float("inf"), 1e-300, "x", "7"),
    *([[]], [None], [1, 2], {"a": 1}, 10**30, 2.5, 1e9),
)
TEXTS = ("", "nan", "inf", "-1", "0", "1e308", "1e-300", "x", "1e9", "9" * 24, "3")
TABLES = "scene sample sample_data sample_annotation instance category ego_pose sensor".split()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts:
        if isinstance(part, dict | list):
            yield from places(part, (*path, key))
        else:
            yield (*path, key)


def changed(content: Any, rng: Random) -> Any:
    content = copy.deepcopy(content)
    *way, last = rng.choice(list(places(content)))
    parent = content
    for key in way:
        parent = parent[key]
    if rng.random() < 0.1:
        del parent[last]
    else:
        parent[last] = copy.deepcopy(rng.choice(ODD))
    return content


def ends(path: Path, format: str) -> str:
    """Return how reading ended; anything but a layout or a documented error is raised."""
    try:
        import_layout(path, ImportOptions(format=format))
    except Geo3dError as error:
        return error.code
    return "read"


def made(format: str, folder: Path, table: str = "") -> tuple[Path, Path]:
    """Return what is read, and the file in it that is changed."""
    if format == "nuscenes":
        root = street_files.nuscenes(folder / "v1.0-mini")
        return root, root / f"{table}.json"
    makers = {
        "geojson": street_files.geojson,
        "cityjson": street_files.cityjson,
        "waymo": street_files.waymo_json,
        "osm": street_files.osm,
        "opendrive": street_files.opendrive,
    }
    path = (
        street_files.kitti360(folder) if format == "kitti360" else makers[format](folder / "a.txt")
    )
    return path, path


@pytest.mark.parametrize(
    ("format", "table"),
    [("geojson", ""), ("cityjson", ""), ("waymo", ""), *(("nuscenes", t) for t in TABLES)],
)
def test_odd_entries_of_json(tmp_path: Path, format: str, table: str) -> None:
    path, file = made(format, tmp_path, table)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    seen: Counter[str] = Counter()
    for case in range(25):
        odd = changed(lines, Random(f"{format}/{table}/{case}"))
        file.write_text("\n".join(map(json.dumps, odd)))
        seen[ends(path, format)] += 1
    assert seen["layout_file.bad_import"] > 0, seen


@pytest.mark.parametrize(("format", "cases"), [("osm", 12), ("opendrive", 40), ("kitti360", 60)])
def test_odd_attributes_and_texts_of_xml(tmp_path: Path, format: str, cases: int) -> None:
    path, file = made(format, tmp_path)
    whole = file.read_text()
    spots = [m.span(1) for m in re.finditer(r"""=['"]([^'"]*)['"]|>[^<>]+<""", whole) if m[1]]
    spots += [m.span(1) for m in re.finditer(r">([^<>]+)<", whole)]
    spots += [m.span() for m in re.finditer(r"<\w[^>]*/>", whole)]
    seen: Counter[str] = Counter()
    for case in range(cases):
        rng = Random(f"{format}/{case}")
        start, end = rng.choice(spots)
        text = "" if whole[start] == "<" else rng.choice(TEXTS)
        file.write_text(whole[:start] + text + whole[end:])
        seen[ends(path, format)] += 1
    assert seen["read"] > 0 and len(seen) > 1, seen
