"""Vertex maps in files, as the tools of the field write them: text, NumPy and MATLAB.

Notation: ``p2p_21`` (n2,) holds for every target vertex its source vertex, from 0 in memory; files
of MATLAB programs count from 1, which ``one_based`` says.  Either way -1 stands for no counterpart.

=========  ====================================================================================
``.txt``   one index per line; ``#`` starts a comment
``.npy``   a vector of indices
``.npz``   the array ``p2p_21``, beside others
``.mat``   the variable ``p2p_21``, or the only vector of whole numbers (MATLAB 5 to 7.2)
=========  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from geo3d.errors import FileFormatError, InputError
from geo3d.files import atomic_path, atomic_write_text
from geo3d.npz import read_npy, read_npz

MAX_MAP_BYTES = 256 * 2**20
MAP_NAME = "p2p_21"
MAP_TYPES = (".txt", ".npy", ".npz", ".mat")


def load_p2p(path: str | Path, one_based: bool = False) -> Int64[np.ndarray, " n2"]:
    """Read p2p_21, from 0 in memory.

    Args:
        one_based: whether the file counts from 1.

    Raises:
        FileFormatError: ``correspondence.bad_map`` when it is not a list of indices, -1 for none.
        InputError: ``correspondence.missing`` when there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("correspondence.missing", f"There is no map file {path}.", "")
    if path.stat().st_size > MAX_MAP_BYTES:
        raise _bad_map(path, "it is too large")
    try:
        values = _READERS.get(path.suffix.lower(), _read_text)(path)
    except (OSError, ValueError, OverflowError) as error:
        raise _bad_map(path, str(error)) from error
    if values.ndim == 2 and 1 in values.shape:
        values = values.ravel()
    if values.ndim != 1 or values.dtype.kind not in "iuf" or not len(values):
        raise _bad_map(path, f"it holds {values.dtype} {values.shape}")
    if values.dtype.kind == "f" and not (np.abs(values) < 2**53).all():
        raise _bad_map(path, "it has numbers that are not finite")
    whole = values.astype(np.int64)
    if (whole != values).any():
        raise _bad_map(path, "it has fractions")
    whole = np.where(whole == -1, -1, whole - int(one_based))
    if ((whole < 0) & (values != -1)).any():
        what = (
            "an index below 1, so it counts from 0"
            if one_based
            else "negative indices other than -1"
        )
        raise _bad_map(path, f"it has {what}")
    return whole


def save_p2p(
    path: str | Path,
    p2p_21: Int64[np.ndarray, " n2"],
    more: Mapping[str, np.ndarray],
    one_based: bool = False,
) -> Path:
    """Write a map in the format that the name ends in.

    Args:
        more: further arrays by name, for ``.npz`` and ``.mat``; vertex maps (names that begin with
            ``p2p``) count like ``p2p_21``.

    Raises:
        InputError: ``correspondence.unknown_format``.
    """
    kind, path = require_map_type(path), Path(path)
    shift = int(one_based)
    if kind == ".txt":
        return atomic_write_text(path, "".join(f"{i}\n" for i in _counted(p2p_21, shift)))
    arrays: dict[str, Any] = {MAP_NAME: p2p_21, **more}
    arrays = {
        name: _counted(array, shift) if name.startswith("p2p") else array
        for name, array in arrays.items()
    }
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        if kind == ".npy":
            np.save(file, arrays[MAP_NAME], allow_pickle=False)
        elif kind == ".npz":
            np.savez_compressed(file, **arrays)
        else:
            from scipy.io import savemat

            savemat(file, arrays, do_compression=True, oned_as="column")
    return path


def _counted(p2p: Int64[np.ndarray, " n"], shift: int) -> Int64[np.ndarray, " n"]:
    return np.where(p2p < 0, -1, p2p + shift)


def require_map_type(path: str | Path) -> str:
    """Return the type of a map file to be written, by the end of its name.

    Raises:
        InputError: ``correspondence.unknown_format``.
    """
    kind = Path(path).suffix.lower()
    if kind not in MAP_TYPES:
        raise InputError(
            "correspondence.unknown_format",
            f"Cannot write a map as {Path(path).name}.",
            f"Use one of {', '.join(MAP_TYPES)}.",
        )
    return kind


def read_landmarks(path: str | Path, one_based: bool = False) -> Int64[np.ndarray, "p 2"]:
    """Read rows (source vertex, target vertex), from 0 in memory; ``#`` starts a comment.

    Args:
        one_based: whether the file counts from 1.

    Raises:
        FileFormatError: ``landmarks.bad_file``.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        rows = [line.partition("#")[0].replace(",", " ").split() for line in lines]
        pairs = np.array([r for r in rows if r], dtype=np.int64)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError(f"its shape is {pairs.shape}")
        if one_based and pairs.min() < 1:
            raise ValueError("it holds an index below 1, so it counts from 0")
        return pairs - int(one_based)
    except (ValueError, OverflowError, OSError) as error:
        raise FileFormatError(
            "landmarks.bad_file",
            f"{Path(path).name} is not a list of vertex pairs: {error}.",
            'Each line has two whole numbers: "source_vertex target_vertex", counted from 0 '
            "(from 1 with --one-based).",
        ) from error


def _read_text(path: Path) -> np.ndarray:
    lines = path.read_text(encoding="utf-8").splitlines()
    words = [word for line in lines for word in line.partition("#")[0].split()]
    try:
        return np.array(words, dtype=np.int64)
    except ValueError:
        # MATLAB writes 1.0000000e+00
        return np.array(words, dtype=np.float64)


def _read_npz(path: Path) -> np.ndarray:
    return read_npz(path, [MAP_NAME], MAX_MAP_BYTES)[MAP_NAME]


def _read_mat(path: Path) -> np.ndarray:
    from scipy.io import loadmat

    try:
        found = loadmat(path)
    except Exception as error:  # scipy raises a dozen classes on damaged and newer files
        raise ValueError(f"it is no MATLAB file that can be read ({error})") from error
    if MAP_NAME in found:
        return np.asarray(found[MAP_NAME])
    vectors = [
        array
        for name, array in found.items()
        if not name.startswith("_") and np.ndim(array) == 2 and 1 in np.shape(array)
        if np.asarray(array).dtype.kind in "iuf" and (array == np.floor(array)).all()
    ]
    if len(vectors) != 1:
        raise ValueError(f"it holds {len(vectors)} vectors of whole numbers and none is {MAP_NAME}")
    return np.asarray(vectors[0])


_READERS = {".npy": read_npy, ".npz": _read_npz, ".mat": _read_mat}


def _bad_map(path: Path, why: str) -> FileFormatError:
    return FileFormatError(
        "correspondence.bad_map",
        f"{path.name} is not a vertex map: {why}.",
        "A map file has one source index per target vertex, from 0 (from 1 with --one-based); "
        "-1 for none.",
    )
