"""Reading mesh files of strangers: in a fresh, limited child process, with plain arrays back.

The parent opens the file (no links, pipes or devices), and hands only its descriptor to an
isolated interpreter that first limits its own address space, processor time, file sizes and
descriptors and then parses.  A child that crashes, hangs or eats its memory is a `Geo3dError` in
the parent.  What comes back is validated again and checked for defects.

Where the operating system has no resource limits (Windows) or does not honour them (macOS and
address space), the wall-clock limit and the header checks remain; a warning is logged.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from geo3d import errors
from geo3d.errors import FileFormatError, Geo3dError, LimitError, MeshError
from geo3d.mesh.check import check_arrays
from geo3d.mesh.io import open_regular
from geo3d.mesh.mesh import Limits, Mesh, RawMesh
from geo3d.mesh.sandbox_child import MAX_CPU_SECONDS

logger = logging.getLogger(__name__)

UPLOAD_LIMITS = Limits(max_bytes=64 * 2**20, max_vertices=5_000_000, max_faces=10_000_000)
MAX_WALL_SECONDS = 60.0
"""After this the child is killed."""

# The package's folder is given by hand: an isolated interpreter does not look at PYTHONPATH.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from geo3d.mesh.sandbox_child import main; main()"
)
_ROOT = str(Path(__file__).resolve().parents[2])


def load_untrusted(
    path: str | os.PathLike[str],
    limits: Limits = UPLOAD_LIMITS,
    wall_seconds: float = MAX_WALL_SECONDS,
) -> Mesh:
    """Read a mesh file from anybody; the mesh is finite, in range and of sane size.

    Raises:
        InputError, FileFormatError, LimitError: as `geo3d.mesh.io.read_raw`.
        LimitError: ``mesh_file.timeout``, ``mesh_file.out_of_memory``.
        FileFormatError: ``mesh_file.reader_crashed``.
        MeshError: the first error of the defect report, such as ``mesh.non_finite``.
    """
    raw = read_raw_untrusted(path, limits, wall_seconds)
    report = check_arrays(raw.vertices, raw.faces)
    for defect in report.defects:
        if defect.severity == "error":
            raise MeshError(defect.code, defect.message, defect.hint)
    return Mesh(raw.vertices, raw.faces, raw.vertex_colors, name=Path(path).stem)


def read_raw_untrusted(
    path: str | os.PathLike[str],
    limits: Limits = UPLOAD_LIMITS,
    wall_seconds: float = MAX_WALL_SECONDS,
) -> RawMesh:
    """Parse in the child and return what the file holds, which may be broken.

    Raises:
        InputError, FileFormatError, LimitError: as `load_untrusted`.
    """
    descriptor = open_regular(path, limits, follow_links=False)
    job = {"suffix": Path(path).suffix[:20], "limits": vars(limits)}
    try:
        # A file, unlike a pipe, lets the parent wait without reading what a hostile child sends.
        with tempfile.TemporaryFile() as output:
            status = _run_child(descriptor, output, json.dumps(job), wall_seconds)
            output.seek(0)
            return _received(output, status)
    finally:
        os.close(descriptor)


def _run_child(descriptor: int, output: IO[bytes], job: str, wall_seconds: float) -> int:
    command = [sys.executable, "-I", "-c", _BOOT, _ROOT, job]
    environment = {
        # One thread: every thread of a numeric library maps address space.
        **{"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        **{key: os.environ[key] for key in ("SYSTEMROOT", "PATH") if key in os.environ},
    }
    try:
        finished = subprocess.run(
            command,
            stdin=descriptor,
            stdout=output,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=wall_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _timeout(f"{wall_seconds:.0f} s") from None
    return finished.returncode


def _timeout(allowed: str) -> LimitError:
    return LimitError(
        "mesh_file.timeout",
        f"Reading the file takes longer than the {allowed} allowed.",
        "Save it in a binary format, or decimate it.",
    )


def _received(output: IO[bytes], status: int) -> RawMesh:
    head = output.readline(1 << 16)
    if not head.endswith(b"\n"):
        # SIGXCPU asks at the soft limit of processor time, SIGKILL enforces the hard one.
        if status in (-24, -9):
            raise _timeout(f"{MAX_CPU_SECONDS} s of processor time")
        raise _crashed(f"it stopped without an answer (status {status})")
    try:
        answer = json.loads(head)
        if "error" in answer:
            raise _rebuilt_error(answer)
        for note in answer["limits_missing"]:
            logger.warning("sandbox: %s", note)
        arrays = [np.load(output, allow_pickle=False) for _ in range(answer["arrays"])]
        return _trusted(arrays, str(answer["format"]), tuple(map(str, answer["notes"])))
    except (ValueError, EOFError, OSError, TypeError, KeyError, MemoryError) as error:
        if isinstance(error, Geo3dError):
            raise
        raise _crashed("the answer is damaged") from None


def _crashed(how: str) -> FileFormatError:
    return FileFormatError(
        "mesh_file.reader_crashed",
        f"The process reading the file failed: {how}.",
        "The file is damaged or made to do harm.",
    )


def _trusted(arrays: list[np.ndarray], kind: str, notes: tuple[str, ...]) -> RawMesh:
    """Return the arrays as a mesh if they have the types and shapes of one."""
    vertices, faces, *rest = arrays
    good = vertices.dtype in (np.float32, np.float64) and faces.dtype == np.int64
    good &= vertices.shape[1:] == (3,) and faces.shape[1:] == (3,) and len(rest) <= 1
    good &= all(part.dtype == np.uint8 and part.shape == vertices.shape for part in rest)
    if not good:
        raise _crashed("the answer is not a mesh")
    return RawMesh(vertices, faces, rest[0] if rest else None, kind, notes)


def _rebuilt_error(answer: dict[str, Any]) -> Geo3dError:
    kinds = {
        kind.__name__: kind
        for kind in (errors.FileFormatError, errors.LimitError, errors.MeshError, errors.InputError)
    }
    kind = kinds.get(answer["error"], errors.FileFormatError)
    return kind(answer["code"], answer["message"], answer["hint"])
