"""The child's side of `geo3d.mesh.sandbox`: limit this process, parse, answer.

The answer on standard output is a line of JSON, then vertices, faces and perhaps colours as npy.
Only what parsing needs is imported here, so that a child starts fast.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import numpy as np

from geo3d.errors import Geo3dError
from geo3d.mesh.io import parse_bytes
from geo3d.mesh.mesh import Limits, RawMesh

MAX_ADDRESS_SPACE = 2 * 2**30
"""Bytes the child may map."""
MAX_CPU_SECONDS = 20
"""Processor time the child may use."""
MAX_OUTPUT = 2**30
"""Bytes the child may write."""


def limit_this_process(
    address_space: int = MAX_ADDRESS_SPACE,
    cpu_seconds: int | None = MAX_CPU_SECONDS,
    output: int = MAX_OUTPUT,
) -> list[str]:
    """Limit the calling process for good; returns a sentence per limit that is not in force."""
    try:
        import resource
    except ImportError:
        return ["This system has no resource limits; only the wall-clock limit is in force."]
    wanted = {
        "RLIMIT_AS": (address_space, address_space),
        "RLIMIT_FSIZE": (output, output),
        "RLIMIT_NOFILE": (64, 64),
        "RLIMIT_CORE": (0, 0),
    }
    if cpu_seconds is not None:
        wanted["RLIMIT_CPU"] = (cpu_seconds, cpu_seconds + 1)
    missing = []
    for name, values in wanted.items():
        try:
            resource.setrlimit(getattr(resource, name), values)
        except (AttributeError, ValueError, OSError):
            missing.append(f"{name} cannot be set on this system.")
    return missing


def main() -> None:
    """Run in the child: limit, read standard input, parse, write the answer to standard output."""
    job = json.loads(sys.argv[2])
    missing = limit_this_process()
    output = sys.stdout.buffer
    limits = Limits(**job["limits"])
    try:
        data = sys.stdin.buffer.read(limits.max_bytes + 1)
        raw = parse_bytes(data, job["suffix"], limits)
        answer = _answer(raw, missing)
    except Geo3dError as error:
        answer = [_line({"error": type(error).__name__, **error.to_dict()})]
    except MemoryError:
        message = "Reading the file takes more memory than is allowed."
        parts = {"code": "mesh_file.out_of_memory", "message": message, "hint": ""}
        answer = [_line({"error": "LimitError", **parts})]
    for part in answer:
        output.write(part)
    output.flush()


def _answer(raw: RawMesh, missing: list[str]) -> list[bytes]:
    arrays = [raw.vertices, raw.faces]
    if raw.vertex_colors is not None:
        arrays.append(raw.vertex_colors)
    head = {
        "format": raw.format,
        "notes": list(raw.notes),
        "arrays": len(arrays),
        "limits_missing": missing,
    }
    parts = [_line(head)]
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        parts.append(buffer.getvalue())
    return parts


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"
