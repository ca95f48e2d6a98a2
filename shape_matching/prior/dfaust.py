"""Maps between a template and the registered scans of Dynamic FAUST, for users who have it.

The files ``registrations_f.hdf5`` and ``registrations_m.hdf5`` hold ``faces`` (f, 3) and, per
sequence ``<subject>_<motion>``, vertices (6890, 3, frames) in metres.  As in the published method,
each frame gives two maps: template -> frame and back; vertex i matches vertex i.  Unlike there,
shapes are brought to unit area first, because matching happens at unit area.  Needs h5py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geo3d.backends import require
from geo3d.config import require_at_least
from geo3d.errors import FileFormatError, Geo3dError, InputError
from geo3d.mesh.io import load_mesh
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import normalized
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.spectral.basis import Basis, eigenbasis
from geo3d.spectral.fmap import p2p_to_fmap
from geo3d.work.pool import Limits
from geo3d.work.shards import Failed, Plan, fill_folder
from shape_matching.prior.map_shards import MapBatch, joined, map_shards

COLUMNS = {
    "creature": np.int32,
    "sequence": np.int32,
    "frame": np.int32,
    "to_template": np.bool_,
}
"""Provenance: number of the subject, index into the sequences of the settings, frame, direction."""
FRAMES_PER_SHARD = 100
FRAME_SECONDS = 60.0
_FACES = "faces"


@dataclass(frozen=True)
class DfaustConfig:
    """Settings of a folder of maps from registered scans."""

    files: tuple[str, ...] = ()
    """The hdf5 files."""
    template: str = ""
    """Mesh with the registrations' vertices; by default the first frame of the first sequence."""
    stride: int = 1
    """Every how many frames one is taken."""
    k: int = 64
    """Size of the maps."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "stride k")


@dataclass(frozen=True)
class Motion:
    """One recorded sequence."""

    file: str
    name: str
    frames: int

    @property
    def subject(self) -> int:
        """Number of the person."""
        head = self.name.partition("_")[0]
        return int(head) if head.isdecimal() else -1


def sequences(path: str | Path) -> list[Motion]:
    """Return the sequences of a file in order of their names.

    Raises:
        BackendUnavailable: ``backend.unavailable`` without h5py.
        InputError: ``dfaust.no_file``.
        FileFormatError: ``dfaust.bad_file``.
    """
    with _opened(path) as (archive, faces):
        n_vertices = int(faces.max()) + 1
        found = []
        for name in sorted(set(archive) - {_FACES}):
            shape = getattr(archive[name], "shape", ())
            if len(shape) != 3 or shape[0] < n_vertices or shape[1] != 3:
                raise _bad(path, f"{name} has shape {tuple(shape)}, not (vertices, 3, frames)")
            found.append(Motion(str(path), name, int(shape[2])))
    if not any(sequence.frames for sequence in found):
        raise _bad(path, "it holds no frames")
    return found


def frames(sequence: Motion, start: int, stop: int, stride: int = 1) -> Iterator[Mesh]:
    """Yield frames ``start, start + stride, ...`` below ``stop`` as meshes, in metres.

    Raises:
        As `sequences`.
    """
    with _opened(sequence.file) as (archive, faces):
        # one read: the frame is the fastest index on disk
        block = np.asarray(archive[sequence.name][:, :, start:stop], np.float64)[:, :, ::stride]
    for i in range(block.shape[2]):
        name = f"{sequence.name}_{start + i * stride:05d}"
        yield Mesh(np.ascontiguousarray(block[:, :, i]), faces, name=name)


def make_dfaust_data(
    config: DfaustConfig,
    out: str | Path,
    *,
    workers: int = 1,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Write the maps of all frames into folder ``out`` and return its index.

    The format, resuming and errors are those of `shape_matching.prior.data.make_prior_data`.

    Raises:
        InputError: ``dfaust.bad_template``, ``work.other_folder``; as `sequences`.
        Cancelled: from ``progress``.
    """
    found = [sequence for path in config.files for sequence in sequences(path)]
    template = _template(config, found)
    settings = {
        "source": "dfaust",
        "template": template.content_hash(),
        "stride": config.stride,
        "k": config.k,
        "sequences": [[Path(s.file).name, s.name, s.frames] for s in found],
    }
    step = FRAMES_PER_SHARD * config.stride
    # failures are told apart by the number of the frame in the whole set
    before = np.cumsum([0, *(s.frames for s in found)]).tolist()
    jobs = [
        (i, before[i], sequence, start, min(start + step, sequence.frames))
        for i, sequence in enumerate(found)
        for start in range(0, sequence.frames, step)
    ]
    return fill_folder(
        map_shards(COLUMNS),
        Path(out),
        Plan(settings, jobs, about={"columns": list(COLUMNS)}),
        partial(_maker, config, template),
        Limits(workers, timeout=FRAME_SECONDS * FRAMES_PER_SHARD, threads=1),
        progress,
    )


def _template(config: DfaustConfig, found: list[Motion]) -> Mesh:
    first = next(frames(next(s for s in found if s.frames), 0, 1))
    if not config.template:
        return first
    mesh = load_mesh(config.template)
    if mesh.n_vertices != first.n_vertices:
        raise InputError(
            "dfaust.bad_template",
            f"{config.template} has {mesh.n_vertices} vertices, the scans {first.n_vertices}.",
            "The template needs the vertices of the registrations, in their order.",
        )
    return mesh


def _maker(config: DfaustConfig, template: Mesh) -> Callable[[int, Any], tuple[MapBatch, Failed]]:
    basis = eigenbasis(normalized(template), config.k, cache=False)
    return partial(_shard, config, basis)


def _shard(config: DfaustConfig, basis: Basis, number: int, job: Any) -> tuple[MapBatch, Failed]:
    index, before, sequence, start, stop = job
    batches, failures = [_batch([], [], config.k)], {}
    for i, mesh in enumerate(frames(sequence, start, stop, config.stride)):
        frame = start + i * config.stride
        try:
            other = eigenbasis(normalized(mesh), config.k, cache=False)
            batches.append(_both_ways(basis, other, (sequence.subject, index, frame)))
        except Geo3dError as error:
            failures[before + frame] = f"{mesh.name}: {error.code}: {error.message}"
    return joined(batches), failures


def _both_ways(template: Basis, frame: Basis, who: tuple[int, int, int]) -> MapBatch:
    same = torch.arange(len(frame.mass))
    pairs = [(template, frame), (frame, template)]
    return _batch([(a, b, p2p_to_fmap(same, a, b).numpy()) for a, b in pairs], [who], template.k)


def _batch(
    maps: list[tuple[Basis, Basis, np.ndarray]], who: list[tuple[int, int, int]], k: int
) -> MapBatch:
    rows = [(*one, back) for one in who for back in (False, True)]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(COLUMNS)
    return MapBatch(
        np.array([fmap for _, _, fmap in maps], np.float16).reshape(-1, k, k),
        *(
            np.array([basis.evals.numpy() for basis in side], np.float32).reshape(-1, k)
            for side in ([a for a, _, _ in maps], [b for _, b, _ in maps])
        ),
        columns={n: np.array(c, t) for (n, t), c in zip(COLUMNS.items(), columns, strict=True)},
    )


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, np.ndarray]]:
    """Open a file of registrations and read its faces."""
    h5py = require("h5py")
    if not Path(path).is_file():
        raise InputError("dfaust.no_file", f"There is no file {path}.", "Check --dfaust.")
    try:
        archive = h5py.File(path, "r")
    except OSError as error:
        raise _bad(path, str(error)) from error
    with archive:
        if _FACES not in archive:
            raise _bad(path, "it has no faces")
        faces = np.asarray(archive[_FACES])
        if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu" or not len(faces):
            raise _bad(path, "faces are not triangles of vertex numbers")
        yield archive, faces.astype(np.int64)


def _bad(path: str | Path, reason: str) -> FileFormatError:
    return FileFormatError(
        "dfaust.bad_file",
        f"{path} is not a file of Dynamic FAUST registrations: {reason}.",
        "Expected: registrations_f.hdf5 or registrations_m.hdf5 as published.",
    )
