"""Numbered files of examples: made in a pool, kept, and read by a training that holds some out.

    fill_examples(folder, settings, 400, partial(example, config), Limits(workers=2), "examples")
    shown, held_out = split_examples(folder, 400, read, one_in=8)

Example ``number`` depends on the settings and its number alone, so a broken-off making is continued
by the same call, and more may be asked for later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from geo3d.errors import InputError
from geo3d.files import atomic_path
from geo3d.npz import read_npz
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.work.pool import Limits, Task
from geo3d.work.runner import Work, claim, failure_text, run_items

T = TypeVar("T")
Make = Callable[[int], Mapping[str, Any]]
"""Returns the arrays of the example of a number; importable, or a partial of what is."""


def fill_examples(
    folder: Path,
    settings: Mapping[str, Any],
    count: int,
    make: Make,
    limits: Limits,
    label: str,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, str]:
    """Make the examples of ``settings`` that are not there; return those that failed and why.

    Raises:
        InputError: ``work.other_folder`` when the folder is for other settings.
        Cancelled: from ``progress``.
    """
    claim(folder, settings)
    tasks = [Task(example_path(folder, n).stem, n) for n in range(count)]
    handler = partial(partial, write_example, make, folder)
    work = Work(folder, tasks, handler, lambda name: (folder / f"{name}.npz").is_file(), label)
    failures = run_items(work, limits, progress)
    return {name: failure_text(failure) for name, failure in failures.items()}


def write_example(make: Make, folder: Path, number: int) -> None:
    """Make one example and write it, whole or not at all."""
    torch.set_num_threads(1)
    arrays = make(number)
    with atomic_path(example_path(folder, number)) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def example_path(folder: Path, number: int) -> Path:
    """Return the file of an example."""
    return folder / f"pair-{number:05d}.npz"


def examples(folder: str | Path, count: int) -> list[tuple[int, Path]]:
    """Return numbers and files of the first ``count`` examples, without those that failed."""
    files = ((n, example_path(Path(folder), n)) for n in range(count))
    return [(n, path) for n, path in files if path.is_file()]


def read_example(
    path: Path,
    names: Sequence[str],
    max_bytes: int,
    build: Callable[[dict[str, np.ndarray]], T],
) -> T:
    """Return what ``build`` makes of the arrays of an example; it raises ValueError where they are
    not what the training wants.

    Raises:
        InputError: ``work.bad_example``.
    """
    try:
        return build(read_npz(path, names, max_bytes))
    except (OSError, ValueError) as error:
        raise InputError(
            "work.bad_example",
            f"{path} is no example for this training: {error}.",
            "Delete it and run the command again, or choose another folder.",
        ) from error


def split_examples(
    folder: str | Path, count: int, read: Callable[[Path], T], one_in: int
) -> tuple[list[T], list[T]]:
    """Return the examples to learn from and those held out: one in so many.

    Raises:
        InputError: ``work.too_few_examples``, and those of ``read``.
    """
    files = examples(folder, count)
    sides: tuple[list[T], list[T]] = ([], [])
    for n, path in files:
        sides[n % one_in == one_in - 1].append(read(path))
    if not all(sides):
        raise InputError(
            "work.too_few_examples",
            f"{folder or 'The folder'} has {len(files)} examples; {one_in} are the least.",
            "Make more: raise --pairs or --creatures.",
        )
    return sides
