"""Readers of ground-truth files, with everything about them checked.

A correspondence is a list over body points: entry i is the vertex of this shape that shows body
point i.  Two shapes whose lists speak of the same body points are compared by pairing entries.
In memory all indices are 0-based.  On disk the literature's text files are 1-based:

* ``.vts``: one vertex number per line, 1-based; ``<shape>.sym.vts`` names the left/right mirrored
  body points in the same order;
* ``<a>_<b>.map`` (SHREC'19): line i is the vertex of b that corresponds to vertex i of a, 1-based;
* ``.baryc_gt`` (SHREC'16): line i is the triangle of the whole shape that shows vertex i, 1-based,
  and three barycentric weights;
* ``.npz`` with ``verts``, ``faces``, ``corr`` and ``corr_sym``, 0-based.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from geo3d.errors import FileFormatError, InputError, LimitError

MAX_TEXT_BYTES = 256 * 2**20
"""Largest correspondence text file that is read."""
MAX_NPZ_BYTES = 1 * 2**30
"""Largest sum of unpacked arrays of a shape file."""


def read_one_based(path: Path) -> Int[np.ndarray, " i"]:
    """Return the 0-based indices of a 1-based text file (``.vts`` or ``.map``).

    Raises:
        InputError: ``dataset.missing_file``.
        LimitError: ``dataset.file_too_large``.
        FileFormatError: ``dataset.bad_correspondence`` (not a list of integers, or empty),
            ``dataset.zero_based`` (a number below 1).
    """
    numbers = _integers(path)
    if numbers.min() < 1:
        raise FileFormatError(
            "dataset.zero_based",
            f"{path.name} holds {numbers.min()}, but vertex numbers in .vts and .map files start "
            "at 1.",
            "The file looks 0-based: add 1 to every number.",
        )
    return numbers - 1


def read_barycentric(
    path: Path,
) -> tuple[Int[np.ndarray, " i"], Float[np.ndarray, "i 3"]]:
    """Return the 0-based triangles and the barycentric weights of a ``.baryc_gt`` file.

    Raises:
        InputError: ``dataset.missing_file``.
        LimitError: ``dataset.file_too_large``.
        FileFormatError: ``dataset.bad_correspondence``, ``dataset.zero_based``.
    """
    numbers = _numbers(path)
    lines = len(path.read_bytes().splitlines())
    table = numbers.reshape(-1, 4) if numbers.size % 4 == 0 else np.full((1, 4), np.nan)
    triangles = table[:, 0]
    good = np.isfinite(table).all() and (np.abs(triangles) < 2**53).all() and len(table) <= lines
    if numbers.size == 0 or not good or (triangles != np.floor(triangles)).any():
        raise FileFormatError(
            "dataset.bad_correspondence",
            f"{path.name} is not a list of triangles with weights.",
            "Each line holds a triangle number (from 1) and three barycentric weights.",
        )
    if triangles.min() < 1:
        raise FileFormatError(
            "dataset.zero_based",
            f"{path.name} names triangle {triangles.min():.0f}, but they are counted from 1.",
            "The file looks 0-based: add 1 to every triangle number.",
        )
    return triangles.astype(np.int64) - 1, table[:, 1:]


def check_indices(indices: Int[np.ndarray, " i"], n_vertices: int, what: str) -> None:
    """Refuse indices that are not vertices of a shape with ``n_vertices``.

    Raises:
        InputError: ``dataset.index_out_of_range``.
    """
    if indices.min() < 0 or indices.max() >= n_vertices:
        raise InputError(
            "dataset.index_out_of_range",
            f"{what} names vertices {indices.min()}..{indices.max()} (0-based), but the shape has "
            f"{n_vertices} vertices.",
            "The file belongs to another shape, or its numbers do not start where they should "
            "(1 in .vts and .map files, 0 in .npz files).",
        )


def read_npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return ``verts``, ``faces``, ``corr`` and, where present, ``corr_sym`` of a shape file.

    Types and dimensions are checked here; index ranges by whoever knows the vertex count.

    Raises:
        InputError: ``dataset.missing_file``.
        LimitError: ``dataset.file_too_large``.
        FileFormatError: ``dataset.bad_npz``, ``dataset.missing_key``.
    """
    _check_npz_size(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = ("verts", "faces", "corr", "corr_sym")
            arrays = {name: np.asarray(archive[name]) for name in names if name in archive}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise FileFormatError(
            "dataset.bad_npz", f"{path.name} cannot be read: {error}.", "Copy the file again."
        ) from error
    for name in ("verts", "faces", "corr"):
        if name not in arrays:
            raise FileFormatError(
                "dataset.missing_key",
                f"{path.name} has no array '{name}'.",
                "A shape file holds verts, faces, corr and optionally corr_sym.",
            )
    _check_array_types(path, arrays)
    return arrays


def _check_array_types(path: Path, arrays: dict[str, np.ndarray]) -> None:
    wanted = {"verts": ("f", 2), "faces": ("iu", 2), "corr": ("iu", 1), "corr_sym": ("iu", 1)}
    for name, array in arrays.items():
        kinds, ndim = wanted[name]
        fits = array.dtype.kind in kinds and array.ndim == ndim and array.size > 0
        if not fits or (ndim == 2 and array.shape[1] != 3):
            raise FileFormatError(
                "dataset.bad_npz",
                f"{path.name}: array '{name}' is {array.dtype} of shape {array.shape}.",
                "verts are floats (v, 3), faces integers (f, 3), corr and corr_sym integers (i,).",
            )
    if "corr_sym" in arrays and arrays["corr_sym"].shape != arrays["corr"].shape:
        raise FileFormatError(
            "dataset.bad_npz",
            f"{path.name}: corr has {arrays['corr'].size} entries, corr_sym "
            f"{arrays['corr_sym'].size}.",
            "Both list the same body points.",
        )


def _check_npz_size(path: Path) -> None:
    if not path.is_file():
        raise _missing(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise FileFormatError(
            "dataset.bad_npz", f"{path.name} is not an .npz file: {error}.", "Copy it again."
        ) from error
    if size > MAX_NPZ_BYTES:
        raise _too_large(path, size, MAX_NPZ_BYTES)


def _numbers(path: Path) -> Float[np.ndarray, " i"]:
    if not path.is_file():
        raise _missing(path)
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise _too_large(path, size, MAX_TEXT_BYTES)
    try:
        return np.array(path.read_bytes().split(), dtype=np.float64)
    except ValueError as error:
        raise _not_a_list(path) from error


def _integers(path: Path) -> Int[np.ndarray, " i"]:
    numbers = _numbers(path)
    # Some published files write "1.0000000e+00"; any integer value is accepted, a fraction is not.
    in_range = np.isfinite(numbers).all() and (np.abs(numbers) < 2**53).all()
    if numbers.size == 0 or not in_range or (numbers != np.floor(numbers)).any():
        raise _not_a_list(path)
    return numbers.astype(np.int64)


def _not_a_list(path: Path) -> FileFormatError:
    return FileFormatError(
        "dataset.bad_correspondence",
        f"{path.name} is not a list of vertex numbers.",
        "It must hold one integer per line and nothing else.",
    )


def _missing(path: Path) -> InputError:
    return InputError("dataset.missing_file", f"There is no file {path}.", "Check the folder.")


def _too_large(path: Path, size: int, limit: int) -> LimitError:
    return LimitError(
        "dataset.file_too_large",
        f"{path.name} holds {size / 2**20:.0f} MiB, the limit is {limit / 2**20:.0f} MiB.",
        "Is this the right file?",
    )
