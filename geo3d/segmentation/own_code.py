"""Functions of the user's own, named "package.module:function": losses and networks.

This is a door for users, and the only place where a name becomes code.  What is named is imported
as a plain import would, from the installed packages or the folder the command was started in;
nothing is evaluated, and no name in a file of weights is ever imported without being asked for
again (`geo3d.segmentation.predict.load_segmenter`).  Workers are fresh processes: they get the name
and import it themselves, so a function that is there only in one session reaches none of them.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from geo3d.errors import ConfigError

_FORM = "Write package.module:function, for instance my_losses:my_loss."


def is_own(name: str) -> bool:
    """Tell a name of the user's own code from one of ours."""
    return ":" in name


def own_function(name: str) -> Callable[..., Any]:
    """Import what "package.module:function" names.

    The folder the process was started in is searched too, after everything that is installed.

    Raises:
        ConfigError: ``own.bad_name`` (not of that form), ``own.no_module``, ``own.failed`` (the
            module raises when it is imported), ``own.no_function``, ``own.not_callable``.
    """
    module_name, _, attribute = name.partition(":")
    parts = [*module_name.split("."), attribute]
    if not all(part.isidentifier() for part in parts) or any(p.startswith("__") for p in parts):
        raise ConfigError("own.bad_name", f"{name!r} names no function.", _FORM)
    module = _imported(module_name, name)
    if not hasattr(module, attribute):
        known = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        ]
        raise ConfigError(
            "own.no_function",
            f"{module_name} has no {attribute}.",
            f"It defines: {', '.join(sorted(known)) or 'no function'}.",
        )
    function = getattr(module, attribute)
    if not callable(function):
        raise ConfigError(
            "own.not_callable", f"{name} is a {type(function).__name__}, not a function.", _FORM
        )
    return function


def fingerprint(function: Callable[..., Any]) -> str:
    """Return a digest of the source of a function's module, to notice that it changed.

    Empty where there is no source, for instance of compiled modules.
    """
    try:
        source = inspect.getsourcefile(inspect.unwrap(function))
        return hashlib.sha256(Path(source or "").read_bytes()).hexdigest()
    except (OSError, TypeError):
        return ""


def is_importable(function: Callable[..., Any]) -> bool:
    """Tell whether another process finds a function, or the class of an object, by its name."""
    while isinstance(function, partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    module = sys.modules.get(named.__module__)
    if module is None or getattr(module, named.__qualname__, None) is not named:
        return False
    # What is typed at a prompt or in a notebook is nowhere else.
    return module.__name__ != "__main__" or Path(getattr(module, "__file__", "")).is_file()


def _imported(module_name: str, name: str) -> Any:
    here = os.getcwd()
    is_added = here not in sys.path and "" not in sys.path
    if is_added:
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # The module itself, or a package above it; another one is missing inside it.
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigError(
                "own.no_module",
                f"There is no module {error.name} for {name}.",
                f"Start the command in the folder that holds it ({here} was searched), or install "
                "it.",
            ) from error
        raise _failed(name, error) from error
    except Exception as error:
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        "own.failed",
        f"Importing {name} fails: {type(error).__name__}: {' '.join(str(error).split())}.",
        "Import it in Python to see where.",
    )
