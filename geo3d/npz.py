"""Reading .npz archives and .npy files that may be torn, foreign or hostile."""

from __future__ import annotations

import os
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

BROKEN = (
    EOFError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise, beside ValueError, about files that are not what they say."""


@contextmanager
def old_headers() -> Iterator[None]:
    """Let files of Python 2 be as good as others: numpy's advice to save them anew is not shown."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Reading `.npy` or `.npz` file required", UserWarning)
        yield


def read_npz(
    path: str | os.PathLike[str], names: Iterable[str], max_bytes: int
) -> dict[str, np.ndarray]:
    """Return the arrays ``names`` of an archive that unpacks to at most ``max_bytes``.

    Nothing is unpickled.  The file is closed whatever happens.

    Raises:
        ValueError: the content is not such an archive.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > max_bytes:
                raise ValueError(f"it unpacks to {size} bytes, more than {max_bytes}")
            file.seek(0)
            with old_headers(), np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in names}
        except KeyError as error:
            raise ValueError(f"it lacks an array ({error})") from error
        except BROKEN as error:
            raise ValueError(str(error)) from error
    # a member without the header of an array comes back as bytes
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("a member is no array")
    return arrays


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the array of a .npy file; nothing is unpickled.

    Raises:
        ValueError: the content is not such an array.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            with old_headers():
                return np.lib.format.read_array(file, allow_pickle=False)
        except BROKEN as error:
            raise ValueError(str(error)) from error
