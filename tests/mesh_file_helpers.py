"""What the tests of mesh files share."""

from __future__ import annotations

import pytest

from geo3d.errors import InputError
from geo3d.mesh.io import parse_bytes
from geo3d.mesh.mesh import Limits

OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"


def code_of(data: bytes, suffix: str = "", limits: Limits | None = None) -> str:
    with pytest.raises(InputError) as caught:
        parse_bytes(data, suffix, limits or Limits())
    return caught.value.code


def codes(notes: tuple[str, ...]) -> list[str]:
    return [note.partition(":")[0] for note in notes]
