"""Work on labels and masks off the device: done once per target, several masks at a time.

Deep supervision judges some seven heads by one target; what depends on the target alone need not be
made seven times.  The work on single masks is compiled code that lets other threads run.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
Item = TypeVar("Item")
Result = TypeVar("Result")


def once_per_target(
    function: Callable[Concatenate[Tensor, P], Result],
) -> Callable[Concatenate[Tensor, P], Result]:
    """Return the function with the memory of its last result, kept while the target lives.

    The result is given again for the same tensor object, unchanged since, with equal settings; it
    must not be changed by the caller.
    """
    last: list[tuple[weakref.ref[Tensor], int, object, Result]] = []

    @wraps(function)
    def wrapper(target: Tensor, *args: P.args, **kwargs: P.kwargs) -> Result:
        if target.is_inference():  # counts no changes
            return function(target, *args, **kwargs)
        settings = (args, tuple(sorted(kwargs.items())))
        for reference, version, known, result in tuple(last):
            if reference() is target and version == target._version and known == settings:
                return result
        result = function(target, *args, **kwargs)
        reference = weakref.ref(target, lambda gone: _forget(last, gone))
        last[:] = [(reference, target._version, settings, result)]
        return result

    return wrapper


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the function's results in order, on as many threads as torch uses."""
    todo = list(items)
    workers = min(torch.get_num_threads(), len(todo))
    if workers < 2:
        return [function(item) for item in todo]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, todo))


def _forget(last: list[tuple[weakref.ref[Tensor], int, object, Result]], gone: object) -> None:
    if last and last[0][0] is gone:
        last.clear()
