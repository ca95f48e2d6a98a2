"""Every reader of files beside those of meshes: a small valid file of each kind, and who reads it.

`fuzz_reader` damages it as `fuzz.cases` damages meshes, with the same mutations and seeds.  A good
end is a value or a `Geo3dError` (or what the reader documents); anything else is a failure.
"""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import foreign_pickles
import numpy as np
import street_files
import torch
import yaml
from fuzz.cases import MAX_CASE_BYTES, MUTATIONS
from PIL import Image

from geo3d import checkpoints, convert
from geo3d.config import read_yaml
from geo3d.errors import Geo3dError
from geo3d.npz import read_npz
from geo3d.segmentation.images import read_image, read_label
from geo3d.synth.streets.generate import generate_street
from scenes.batch_plan import read_batch
from scenes.objects import image_files
from scenes.objects.gaussian_files import load_gaussians
from scenes.urban.imports.cityjson import import_cityjson
from scenes.urban.imports.drives import import_waymo
from scenes.urban.imports.kitti360 import import_kitti360
from scenes.urban.imports.maps import import_geojson, import_osm
from scenes.urban.imports.opendrive import import_opendrive
from scenes.urban.layout_json import layout_to_dict, load_layout
from shape_matching.map_files import load_p2p, read_landmarks

MAX_SECONDS = 4.0
"""Processor time one case may take."""
SPLATS = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"


@dataclass(frozen=True)
class Reader:
    """One kind of file."""

    name: str
    make: Callable[[Path], object]
    """Writes a valid file."""
    read: Callable[[Path], Any]
    documented: tuple[type[Exception], ...] = ()
    """What it may raise beside `Geo3dError`."""


@dataclass
class Ends:
    """How the cases of one reader ended."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0


def fuzz_reader(reader: Reader, folder: Path, n: int, seed: int = 0) -> Ends:
    """Read ``n`` damaged files; case i is the same whatever else is run."""
    path = folder / reader.name
    path.parent.mkdir(parents=True, exist_ok=True)
    reader.make(path)
    whole, ends = path.read_bytes(), Ends()
    reader.read(path)
    for case in range(n):
        rng, data = Random(f"{seed}/{reader.name}/{case}"), whole
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
            data = rng.choice(MUTATIONS)(data, rng)[:MAX_CASE_BYTES]
        path.write_bytes(data)
        begin = time.process_time()
        try:
            reader.read(path)
            ends.outcomes["read"] += 1
        except (Geo3dError, *reader.documented) as error:
            ends.outcomes[getattr(error, "code", type(error).__name__)] += 1
        except Exception as error:
            ends.failures.append(
                f"{reader.name} {seed}/{case}: {type(error).__name__}: {error}"[:300]
            )
        seconds = time.process_time() - begin
        ends.slowest = max(ends.slowest, seconds)
        if seconds > MAX_SECONDS:
            ends.failures.append(f"{reader.name} {seed}/{case}: {seconds:.1f} s")
    return ends


def peak_memory() -> int:
    """Return the peak of this process's resident memory, in bytes; 0 where it cannot be told."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) * 1024 if found else 0


def _image(kind: str, **options: Any) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        values = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(values).save(path, kind, **options)

    return make


def _label(path: Path) -> None:
    mask = np.zeros((24, 32), np.uint8)
    mask[8:12] = 255
    Image.fromarray(mask).save(path, "PNG")


def _npz(path: Path) -> None:
    np.savez_compressed(path, p2p_21=np.arange(40), p2p_12=np.arange(40))


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", foreign_pickles.dumps({"weight": 1.5, "names": ["a", "b"]}))
        archive.writestr("a/version", "3\n")


def _splats(path: Path) -> None:
    names = SPLATS.split()
    header = ["ply", "format binary_little_endian 1.0", "element vertex 12"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    values = np.random.default_rng(0).standard_normal((12, len(names))).astype("<f4")
    path.write_bytes("\n".join(header).encode() + values.tobytes())


def _npy(path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(40))
    path.write_bytes(buffer.getvalue())


def _layout(path: Path) -> None:
    path.write_text(json.dumps(layout_to_dict(generate_street(12, seed=1, kind="straight"), 3)))


def _settings(path: Path) -> None:
    path.write_text(yaml.safe_dump({"fit": {"rounds": 2}, "names": ["a", "b"], "x": 1.5}))


def _batch(path: Path) -> None:
    path.write_text("preset: smoke\nlayouts: [{kind: straight, length: 20}]\nseeds: [0, 1]\n")


def _landmarks(path: Path) -> None:
    path.write_text("# source target\n" + "".join(f"{i} {2 * i}\n" for i in range(9)))


def _weights(path: Path) -> None:
    checkpoints.save(path, {"weight": torch.ones(3, 4), "bias": torch.zeros(3)}, {"width": 4})


def _kitti(path: Path) -> None:
    street_files.kitti360(path.parent)


READERS = (
    Reader("photo.png", _image("PNG"), read_image),
    Reader("photo.jpg", _image("JPEG"), read_image),
    Reader("photo.tif", _image("TIFF", compression="tiff_lzw"), read_image),
    Reader("picture.webp", _image("WEBP"), image_files.read_image),
    Reader("label.png", _label, read_label),
    Reader("weights.safetensors", _weights, checkpoints.load),
    Reader("header.safetensors", _weights, checkpoints.read_header),
    Reader("layout.json", _layout, load_layout),
    Reader("town.osm", street_files.osm, import_osm),
    Reader("town.geojson", street_files.geojson, import_geojson),
    Reader("town.city.json", street_files.cityjson, import_cityjson),
    Reader("road.xodr", street_files.opendrive, import_opendrive),
    Reader("waymo.jsonl", street_files.waymo_json, import_waymo),
    Reader("k.xml", _kitti, import_kitti360),
    Reader("settings.yaml", _settings, read_yaml),
    Reader("batch.yaml", _batch, read_batch),
    Reader("maps.npz", _npz, lambda p: read_npz(p, ("p2p_21",), 1 << 20), (ValueError,)),
    Reader("map.npz", _npz, load_p2p),
    Reader("map.npy", _npy, load_p2p),
    Reader("marks.txt", _landmarks, read_landmarks),
    Reader("weights.pt", _zip, convert.read_foreign),
    Reader("splats.ply", _splats, load_gaussians),
)
