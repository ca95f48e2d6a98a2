"""Errors: class decides the exit code, code and hint reach the user."""

from __future__ import annotations

import pytest

from geo3d import errors


@pytest.mark.parametrize(
    ("kind", "exit_code", "also"),
    [
        (errors.ConfigError, 2, Exception),
        (errors.InputError, 3, ValueError),
        (errors.MeshError, 3, errors.InputError),
        (errors.FileFormatError, 3, errors.InputError),
        (errors.ShapeError, 3, errors.InputError),
        (errors.CheckpointError, 3, errors.InputError),
        (errors.BackendUnavailable, 4, ImportError),
        (errors.NumericalError, 5, ArithmeticError),
        (errors.LimitError, 6, errors.InputError),
    ],
)
def test_exit_codes_and_bases(
    kind: type[errors.Geo3dError], exit_code: int, also: type[Exception]
) -> None:
    error = kind("area.what", "It is wrong.", "Mend it.")
    assert isinstance(error, errors.Geo3dError) and isinstance(error, also)
    assert error.exit_code == exit_code
    assert str(error) == "[area.what] It is wrong.\n  hint: Mend it."
    assert error.to_dict() == {"code": "area.what", "message": "It is wrong.", "hint": "Mend it."}


def test_no_hint_no_hint_line() -> None:
    assert str(errors.InputError("a.b", "Wrong.")) == "[a.b] Wrong."


def test_cancelled_is_130() -> None:
    assert errors.Cancelled().exit_code == 130 and errors.Cancelled().code == "run.cancelled"
