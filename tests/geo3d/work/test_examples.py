"""Numbered examples: made once, failures told, more of them later, none of other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from geo3d.errors import InputError
from geo3d.work.examples import example_path, examples, fill_examples
from geo3d.work.pool import Handler, Limits, Outcome, Task, answer
from geo3d.work.runner import Work


def inline(
    tasks: Sequence[Task],
    make_handler: Callable[[], Handler],
    limits: Limits,
    idle: Callable[[], None],
) -> Iterator[Outcome]:
    """Do tasks in this process: starting others takes seconds."""
    handler = make_handler()
    for task in tasks:
        yield Outcome(task, *answer(handler, task.payload))


def squares(made: list[int], number: int) -> dict[str, np.ndarray]:
    made.append(number)
    if number == 2:
        raise InputError("mesh.bad", "Bad.", "")
    return {"square": np.array(number**2)}


def test_what_is_missing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geo3d.work.examples.Work", partial(Work, engine=inline))
    made: list[int] = []
    fill = partial(fill_examples, tmp_path, {"seed": 1})
    rest = (partial(squares, made), Limits(), "squares")
    assert fill(4, *rest) == {"pair-00002": "mesh.bad: Bad."}
    assert [n for n, _ in examples(tmp_path, 9)] == [0, 1, 3] and made == [0, 1, 2, 3]
    assert np.load(example_path(tmp_path, 3))["square"] == 9
    assert examples(tmp_path, 1) == [(0, example_path(tmp_path, 0))]
    # a failure of the example's own is told again, not tried again
    example_path(tmp_path, 1).unlink()
    assert list(fill(5, *rest)) == ["pair-00002"] and made[4:] == [1, 4]
    with pytest.raises(InputError, match=r"work\.other_folder"):
        fill_examples(tmp_path, {"seed": 2}, 4, *rest)
