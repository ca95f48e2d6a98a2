"""Turn a foreign weight file into safetensors without running anything that is in it.

Read are torch files (``.pt .pth .bin``, the zip format and the older one), plain pickles and
numpy's ``.npy`` and ``.npz``, with object arrays too.  Tensors and arrays become entries named by
their path in the file (``ema.layers.0.weight``; a module's own bookkeeping names are left out);
numbers and short texts become the config in the metadata.

The work is done by `geo3d.unpickle` in a child process with limits on memory, time and file size.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geo3d.errors import CheckpointError, Geo3dError, InputError, LimitError
from geo3d.files import atomic_path, refuse_pointer, sha256_file
from geo3d.npz import BROKEN
from geo3d.pickle_records import (
    ArrayRecord,
    ElementType,
    Storage,
    TensorRecord,
    array_of,
    damaged,
    numpy_element_type,
)
from geo3d.unpickle import Inert, load_pickle, read_legacy

_MAX_DEPTH = 200
_MAX_NODES = 2_000_000
_MAX_TEXT = 10_000
_SPARE_BYTES = 2 << 30
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Conversion:
    """What `convert_file` made."""

    path: Path
    """The safetensors file."""
    names: tuple[str, ...]
    """Its entries."""
    sha256: str
    """Its digest."""
    source_sha256: str
    """The digest of the file it was made from; also in its metadata."""


def convert_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    inert: Sequence[str] = (),
    max_bytes: int = 16 << 30,
    timeout_s: float = 900.0,
) -> Conversion:
    """Convert ``source`` into the safetensors file ``out``, in a limited child process.

    Args:
        source: torch, pickle or numpy file.
        out: where to write, ``.safetensors``.
        inert: modules whose classes may be read as inert records ("*" for all).
        max_bytes: largest source accepted.
        timeout_s: the child is killed after this time.

    Raises:
        InputError: ``file.missing``.
        LimitError: ``checkpoint.too_large``, ``checkpoint.too_slow``.
        CheckpointError: ``checkpoint.forbidden_global``, ``checkpoint.damaged``,
            ``checkpoint.no_tensors``, ``checkpoint.converter_died``, ``checkpoint.pointer``.
    """
    source, out = Path(source), Path(out)
    if not source.is_file():
        raise InputError("file.missing", f"There is no file {source}.", "")
    size = source.stat().st_size
    if size > max_bytes:
        message = f"{source} has {size} bytes; at most {max_bytes} are converted."
        raise LimitError("checkpoint.too_large", message, "")
    refuse_pointer(source)
    source_sha256 = sha256_file(source)
    with atomic_path(out) as temporary:
        task = {
            "source": str(source.resolve()),
            "out": str(temporary.resolve()),
            "inert": list(inert),
            "memory": _SPARE_BYTES + 4 * size,
            "seconds": math.ceil(timeout_s),
            "sha256": source_sha256,
        }
        names = _run_child(task, timeout_s)
    return Conversion(out, tuple(names), sha256_file(out), source_sha256)


def read_foreign(path: str | os.PathLike[str], inert: Sequence[str] = ()) -> Any:
    """Return a foreign file's content as containers, records and inert objects.

    Runs in this process: for untrusted files use `convert_file`.
    """
    with open(path, "rb") as stream:
        head = stream.read(16)
        stream.seek(0)
        if head.startswith(b"PK\x03\x04"):
            try:
                archive = zipfile.ZipFile(stream)
            except (ValueError, *BROKEN) as error:
                raise damaged(f"its zip archive is broken ({error})") from error
            return _read_zip(archive, inert)
        if head.startswith(b"\x93NUMPY"):
            return _read_npy(stream, inert)
        # Torch's older format opens with a pickled magic number.
        if b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" in head:
            return read_legacy(stream, inert)
        return load_pickle(stream, None, inert)


def flatten(content: Any) -> tuple[dict[str, TensorRecord | ArrayRecord], dict[str, Any]]:
    """Return the tensors of ``content`` by dotted path, and its numbers and texts likewise.

    Raises:
        CheckpointError: ``checkpoint.name_clash``, ``checkpoint.damaged``.
        LimitError: ``checkpoint.too_large``.
    """
    found = _Found()
    _visit(content, "", found, ())
    return found.tensors, found.values


@dataclass
class _Found:
    tensors: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    nodes: int = 0

    def add(self, into: dict[str, Any], path: str, value: Any) -> None:
        if path in self.tensors or path in self.values:
            message = f"Two entries of the file would be called {path!r}."
            raise CheckpointError("checkpoint.name_clash", message, "")
        into[path] = value


def _visit(node: Any, path: str, found: _Found, above: tuple[int, ...]) -> None:
    found.nodes += 1
    if found.nodes > _MAX_NODES:
        raise LimitError("checkpoint.too_large", f"The file has over {_MAX_NODES} entries.", "")
    if len(above) > _MAX_DEPTH:
        raise damaged(f"it is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(node, TensorRecord):
        found.add(found.tensors, path or "value", node)
    elif isinstance(node, ArrayRecord) and not isinstance(node.raw, list):
        found.add(found.tensors, path or "value", node)
    elif node is None or isinstance(node, bool | int | float | str):
        found.add(found.values, path or "value", node[:_MAX_TEXT] if type(node) is str else node)
    # An object that refers to one above it (a child to its parent) is not entered again.
    elif id(node) not in above:
        for name, child in _children(node):
            below = f"{path}.{name}" if path and name else path or name
            _visit(child, below, found, (*above, id(node)))


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ArrayRecord):
        node = node.raw[0] if node.shape == () else node.raw
        if not isinstance(node, list):
            yield "", node
            return
    if isinstance(node, Inert):
        for name, value in node.attributes.items():
            # A torch module keeps its weights in these; in a state dict they have no name.
            yield "" if name in _MODULE_PARTS else name, value
        node = node.items
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield str(key), value
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield str(index), value


def _read_zip(archive: zipfile.ZipFile, inert: Sequence[str]) -> Any:
    names = archive.namelist()
    if any(name.endswith(".npy") for name in names):
        return {
            name.removesuffix(".npy"): _read_npy(io.BytesIO(_member(archive, name)), inert)
            for name in names
        }
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise damaged("it is a zip archive, but not one of torch or numpy")
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "byteorder" in names and _member(archive, folder + "byteorder") != b"little":
        raise damaged("it was written on a big-endian machine")
    blocks: dict[str, bytes] = {}

    def read(key: str) -> bytes:
        if key not in blocks:
            blocks[key] = _member(archive, f"{folder}data/{key}")
        return blocks[key]

    def storage_of(pid: Sequence[Any]) -> Storage:
        if pid[0] != "storage" or not isinstance(pid[1], ElementType):
            raise damaged("it uses a kind of storage that is not supported")
        data = read(str(pid[2]))  # now: the archive is closed when tensors are made
        return Storage(pid[1], lambda: data)

    return load_pickle(io.BytesIO(_member(archive, pickles[0])), storage_of, inert)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except MemoryError:
        raise  # the limit of the process that converts
    except (KeyError, ValueError, *BROKEN) as error:
        raise damaged(f"its part {name!r} cannot be read ({error})") from error


def _read_npy(stream: Any, inert: Sequence[str]) -> Any:
    try:
        version = np.lib.format.read_magic(stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, is_fortran, dtype = readers[version](stream)
    except (KeyError, ValueError, *BROKEN) as error:
        raise damaged(f"its numpy header is broken ({error})") from error
    if dtype.hasobject:
        return load_pickle(stream, None, inert)
    element = numpy_element_type(dtype.str)
    return ArrayRecord(tuple(shape), element, is_fortran, stream.read())


def _run_child(task: Mapping[str, Any], timeout_s: float) -> list[str]:
    environment = {
        key: value
        for key, value in os.environ.items()
        if key in ("PATH", "HOME", "SYSTEMROOT", "LANG", "LD_LIBRARY_PATH")
    }
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    environment["OPENBLAS_NUM_THREADS"] = "1"
    try:
        child = subprocess.run(
            [sys.executable, "-m", "geo3d.convert"],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment,
            cwd=Path(task["out"]).parent,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        message = f"{task['source']} was not converted within {timeout_s:.0f} s."
        raise LimitError("checkpoint.too_slow", message, "") from error
    try:
        answer = json.loads(child.stdout)
    except ValueError as error:
        raise CheckpointError(
            "checkpoint.converter_died",
            f"The converter of {task['source']} ended with code {child.returncode}.",
            "The file asks for more memory or time than its size allows, or is damaged.",
        ) from error
    if "error" in answer:
        kinds: dict[str, type[Geo3dError]] = {"LimitError": LimitError}
        raise kinds.get(answer["kind"], CheckpointError)(**answer["error"])
    return answer["names"]


def _child() -> None:
    """Convert as the task on stdin says; answer with JSON on stdout."""
    task = json.load(sys.stdin)
    _limit(task["memory"], task["seconds"])
    try:
        tensors, values = flatten(read_foreign(task["source"], task["inert"]))
        if not tensors:
            raise CheckpointError("checkpoint.no_tensors", "The file holds no tensors.", "")
        metadata = {"geo3d.config": json.dumps(values), "geo3d.source_sha256": task["sha256"]}
        _write_safetensors(task["out"], tensors, metadata, task["memory"])
        answer: dict[str, Any] = {"names": list(tensors)}
    except Geo3dError as error:
        answer = {"kind": type(error).__name__, "error": error.to_dict()}
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        # Records filled by a hostile pickle can hold anything; that is the file's fault.
        answer = {"kind": "", "error": damaged(f"{type(error).__name__}: {error}").to_dict()}
    except MemoryError:
        error = LimitError("checkpoint.too_large", "The file asks for too much memory.", "")
        answer = {"kind": "LimitError", "error": error.to_dict()}
    sys.stdout.write(json.dumps(answer))


def _limit(memory: int, seconds: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _write_safetensors(
    path: str, tensors: Mapping[str, Any], metadata: Mapping[str, str], max_bytes: int
) -> None:
    """Write records in the safetensors format: header length, JSON header, data.

    By hand, because torch is not loaded here and numpy lacks bfloat16.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    arrays, position = [], 0
    for name, record in tensors.items():
        kind, values = array_of(record, max_bytes)
        header[name] = {
            "dtype": kind,
            "shape": list(values.shape),
            "data_offsets": [position, position + values.nbytes],
        }
        position += values.nbytes
        if position > max_bytes:
            raise LimitError("checkpoint.too_large", "The tensors are too large together.", "")
        arrays.append(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for values in arrays:
            stream.write(values.tobytes())


if __name__ == "__main__":
    _child()
