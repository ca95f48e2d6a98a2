"""What the jobs of all tabs share: uploads, the command line, results, copies for the browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from apps.job_files import Job, read_json
from geo3d.errors import InputError
from geo3d.files import new_id, slug

MAX_PIXELS = 16_000_000
"""Of images for the page; the command line takes larger ones."""


@dataclass(frozen=True)
class Upload:
    """An image that was read; our copy of it."""

    name: str
    """For people; untrusted text."""
    path: str
    width: int
    height: int
    notes: tuple[str, ...] = ()
    label: Upload | None = None
    """That came with an example."""


def keep_image(
    pixels: Image.Image | np.ndarray, name: str, scratch: Path, notes: tuple[str, ...] = ()
) -> Upload:
    """Write our copy of an image below ``scratch``."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    path = fresh(scratch, "pictures") / "picture.png"
    image.save(path)
    return Upload(name, str(path), image.width, image.height, notes)


def unknown_choice(what: str) -> InputError:
    """Return the refusal of what the page does not offer: a request need not come from our page."""
    return InputError("viewer.unknown_choice", f"There is no such {what}.", "Reload the page.")


def bad_edit(why: str) -> InputError:
    """Return the refusal of a change that the page cannot have asked for."""
    return InputError(
        "viewer.bad_edit", f"The change cannot be made: {why}.", "Reload the page and try again."
    )


def parsed_edit(message: str, limit: int) -> dict[str, Any]:
    """Return a change that the page asks for: an object of at most ``limit`` letters with an "op".

    Raises:
        InputError: ``viewer.bad_edit``.
    """
    try:
        request = json.loads(message) if len(message) <= limit else None
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict) or not isinstance(request.get("op"), str):
        raise bad_edit("it is no change")
    return request


def fresh(scratch: Path, kind: str) -> Path:
    """Make a folder of its own for something that the browser is shown."""
    folder = scratch / kind / new_id()
    folder.mkdir(parents=True)
    return folder


def checked_seed(seed: float | None) -> int:
    """Return a seed that the page sent; a request need not come from our page.

    Raises:
        InputError: ``viewer.bad_seed``.
    """
    if seed is None or not 0 <= seed < 2**31:
        raise InputError(
            "viewer.bad_seed", "The seed is not a whole number from 0 to 2147483647.", "Try 0."
        )
    return int(seed)


def command(verb: str, folder: Path, *inputs: object, **flags: Any) -> list[str]:
    """Return the command line of the job in ``folder``.

    A flag that is None or empty is left out; one that is True stands alone.
    """
    argv = [verb, *map(str, inputs), "--out", str(folder / "run"), "--json"]
    for name, value in flags.items():
        if value is None or value is False or value == "" or value == ():
            continue
        values = () if value is True else value if isinstance(value, tuple) else (value,)
        argv += [f"--{name.replace('_', '-')}", *map(str, values)]
    return argv


def result_of(job: Job) -> tuple[Path, dict[str, Any]]:
    """Return the run folder and the numbers of a job that is done.

    Raises:
        InputError: ``job.no_result``.
    """
    run = job.run_folder
    metrics = read_json(run / "metrics.json") if run else None
    if job.state != "done" or run is None or metrics is None:
        raise InputError("job.no_result", "The job has no result.", "Run it again.")
    return run, metrics


def copied(source: Path, target: Path) -> str | None:
    """Copy a file for the browser and return the copy; None if there is nothing to copy."""
    if not source.is_file():
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    return str(shutil.copyfile(source, target))


def offered(job: Job, scratch: Path, files: Mapping[str, Path]) -> list[str]:
    """Return copies of the files that are there, by the name to download."""
    folder = scratch / "downloads" / job.id
    copies = (copied(path, folder / name) for name, path in files.items())
    return [copy for copy in copies if copy]


def renamed_outputs(
    job: Job, scratch: Path, suffixes: tuple[str, ...], stem: str, name: object
) -> list[str]:
    """Return copies of a job's outputs, with ``stem`` in their names made what ``name`` says."""
    if job.run_folder is None:
        return []
    outputs = sorted((job.run_folder / "outputs").iterdir())
    found = [path for path in outputs if path.suffix in suffixes]
    return offered(job, scratch, {p.name.replace(stem, slug(str(name)), 1): p for p in found})
