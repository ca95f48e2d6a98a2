"""What every loss takes: raw scores and a target, checked and brought to one form.

Notation: b batch, c classes (0 is the background), space (h, w) or (d, h, w).

* `logits` (b, c, *space): any floating type.  Losses compute in float32 (float64 stays float64);
  the gradient comes back in the type of the input.
* `target`: whole-number labels (b, *space) or (b, 1, *space), or a soft target (b, c, *space) of
  floating numbers that sum to one over the classes.  The type tells them apart: integers and
  booleans are labels, floating numbers are soft unless their channel axis is 1.

Work on labels and masks off the device: done once per target, several masks at a time.

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
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from geo3d.errors import InputError

SUM_TOLERANCE = 1e-2
"""How far the classes of a soft target may be from one in sum (half precision is coarse)."""


def check_inputs(
    logits: Float[Tensor, "b c *space"], target: Shaped[Tensor, "*any"], min_classes: int = 2
) -> None:
    """Refuse scores and targets that no loss can use.

    Raises:
        InputError: "loss.wrong_shape" for scores that are no batch of images or volumes;
            "loss.not_finite" for NaN or infinite scores or soft targets; "loss.wrong_target" for
            a target of another size or place, labels out of range, or soft classes not summing
            to one.
    """
    shape = tuple(logits.shape)
    if logits.ndim not in (4, 5) or shape[1] < min_classes or 0 in shape:
        raise InputError(
            "loss.wrong_shape",
            f"Scores of shape {shape} are not a batch of images or volumes with classes.",
            f"Give (b, c, h, w) or (b, c, d, h, w) with c of at least {min_classes}.",
        )
    _check_finite(logits, "scores")
    if is_soft(target):
        _check_soft(shape, target)
    else:
        _check_labels(shape, target, max(shape[1], 2))


def is_soft(target: Shaped[Tensor, "*any"]) -> bool:
    """Say whether a target holds probabilities rather than labels."""
    return target.is_floating_point() and target.ndim > 3 and target.shape[1] != 1


def working(values: Shaped[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return numbers in the type losses compute in: float64 stays, all else becomes float32."""
    return values if values.dtype == torch.float64 else values.float()


def probabilities(logits: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
    """Return the softmax over classes."""
    return torch.softmax(working(logits), dim=1)


def one_hot(
    target: Shaped[Tensor, "*any"], logits: Float[Tensor, "b c *space"]
) -> Float[Tensor, "b c *space"]:
    """Return the target as one map per class of the scores; a soft target passes through."""
    dtype = working(logits[:0]).dtype
    if is_soft(target):
        return target.to(dtype)
    labels = hard_labels(target)
    classes = torch.arange(logits.shape[1], device=labels.device)
    steps = (-1, *(1 for _ in range(logits.ndim - 2)))
    return (labels[:, None] == classes.view(steps)).to(dtype)


def hard_labels(target: Shaped[Tensor, "*any"]) -> Int64[Tensor, "b ..."]:
    """Return the label of each pixel; of a soft target the most likely, the first if they tie."""
    if is_soft(target):
        return target.argmax(dim=1)
    has_channel = target.ndim > 3 and target.shape[1] == 1
    return (target[:, 0] if has_channel else target).long()


def foreground_classes(logits: Float[Tensor, "b c *space"]) -> range:
    """Return the numbers of all classes but the background."""
    return range(1, logits.shape[1])


def _check_soft(shape: tuple[int, ...], target: Tensor) -> None:
    if tuple(target.shape) != shape:
        raise _wrong_target(shape, target)
    _check_finite(target, "soft target")
    worst = (target.sum(dim=1, dtype=torch.float32) - 1).abs().max()
    if target.min() < -SUM_TOLERANCE or worst > SUM_TOLERANCE:
        raise InputError(
            "loss.wrong_target",
            "The classes of a soft target are not probabilities that sum to one.",
            "Apply softmax first; give labels as integers.",
        )


def _check_labels(shape: tuple[int, ...], target: Tensor, n_classes: int) -> None:
    flat = (shape[0], *shape[2:])
    with_channel = (shape[0], 1, *shape[2:])
    given = tuple(target.shape)
    # Four axes, the second of them 1, is an image with its channel, never a volume.
    is_flat = given == flat and not (len(given) == 4 and given[1] == 1)
    if not (is_flat or given == with_channel) or (is_flat and target.is_floating_point()):
        raise _wrong_target(shape, target)
    if target.dtype == torch.bool:
        return
    low, high = torch.aminmax(target)
    # Written so that NaN is refused too.
    fits = bool(low >= 0) and bool(high < n_classes)
    if not fits or (target.is_floating_point() and not bool((target == target.round()).all())):
        raise InputError(
            "loss.wrong_target",
            f"Labels run from {low.item()} to {high.item()} or are not whole numbers.",
            f"Use 0 for the background and 1 to {n_classes - 1} for the classes.",
        )


def _wrong_target(shape: tuple[int, ...], target: Tensor) -> InputError:
    return InputError(
        "loss.wrong_target",
        f"A {target.dtype} target of shape {tuple(target.shape)} does not fit scores of {shape}.",
        "Give integer labels (b, *space) or (b, 1, *space), or floating (b, c, *space).",
    )


def _check_finite(values: Tensor, name: str) -> None:
    low, high = torch.aminmax(values.detach())
    if not (torch.isfinite(low) & torch.isfinite(high)):
        raise InputError(
            "loss.not_finite",
            f"The {name} hold NaN or infinite numbers.",
            "Lower the learning rate or look at what made them.",
        )


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
