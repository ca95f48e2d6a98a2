"""Errors a user can act on: a stable code, one sentence, and a hint on what to do.

Every error the package raises on purpose is a `Geo3dError`.  The code is stable and documented in
docs/errors.md (``area.what_is_wrong``), the message says what is wrong with which input, the hint
says what to do about it.  The class decides the exit code of the command line.
"""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """Return ``text`` with control characters, direction marks and line breaks written out.

    File names may hold escape codes that a terminal would obey.

    >>> printable("a\\x1b[2Jb\\n")
    'a\\\\x1b[2Jb\\\\n'
    """
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in hidden else c
        for c in text
    )


class Geo3dError(Exception):
    """Base of all deliberate errors.

    Args:
        code: stable identifier, ``area.what_is_wrong`` in lower case.
        message: one sentence on what is wrong, naming the input.
        hint: one sentence on what to do; may be empty.
    """

    exit_code = 1

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        text = f"[{self.code}] {printable(self.message)}"
        return f"{text}\n  hint: {self.hint}" if self.hint else text

    def to_dict(self) -> dict[str, str]:
        """Return the parts as a JSON-ready mapping."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class ConfigError(Geo3dError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 2


class InputError(Geo3dError, ValueError):
    """Data handed in by the user cannot be used."""

    exit_code = 3


class MeshError(InputError):
    """Arrays do not form a usable mesh."""


class FileFormatError(InputError):
    """A file's content is not what its format prescribes."""


class ShapeError(InputError):
    """An array has the wrong shape."""


class LimitError(InputError):
    """The input is larger than the limits in force."""

    exit_code = 6


class BackendUnavailable(Geo3dError, ImportError):
    """An optional library or device is asked for and is not here."""

    exit_code = 4


class CheckpointError(InputError):
    """A weight or checkpoint file is damaged, foreign or does not fit the model."""


class NumericalError(Geo3dError, ArithmeticError):
    """A computation did not converge or left the finite numbers."""

    exit_code = 5


class Cancelled(Geo3dError):
    """The user asked to stop."""

    exit_code = 130

    def __init__(self, message: str = "The job was cancelled.") -> None:
        super().__init__("run.cancelled", message, "Resume it with --resume RUN.")
