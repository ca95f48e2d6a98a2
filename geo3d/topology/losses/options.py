"""The door of every loss: options as MONAI names them, inputs checked, one number per item reduced.

A loss is written as a function of a `Batch` and its own settings that returns one number per item.
Its public face is

    @eager
    def some_loss(logits, target, *, setting=1.0, **options: Unpack[Options]):
        return judge(partial(some_items, setting=setting), logits, target, options)

and works then with classes and overlapping regions, ignored pixels, half precision under autocast,
and inside `torch.compile`, whose graph ends before the loss and goes on behind it: what decides
about topology are compiled loops on the CPU, which no tracer can see through.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, ParamSpec, TypedDict, cast

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from typing_extensions import Unpack

from geo3d.errors import ConfigError, InputError
from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.inputs import (
    check_finite,
    check_scores,
    check_target,
    hard_labels,
    is_maps,
    working,
)

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "none")
P = ParamSpec("P")
TINY = 1e-7
"""How far given probabilities are kept from 0 and 1 before they become scores."""


class Options(TypedDict, total=False):
    """What can be said to every loss; names and meanings are MONAI's where it has them."""

    sigmoid: bool
    """Channels are masks of their own that may overlap; the target has a map for each."""
    softmax: bool
    """Channels exclude each other (the default without `sigmoid`).  False without `sigmoid`:
    probabilities are given, not scores."""
    include_background: bool
    """Whether channel 0 is judged; not given: by overlap terms yes, by topology terms no."""
    to_onehot_y: bool
    """Insist on labels (b, 1, *space); not given: the shape tells labels from maps."""
    reduction: Reduction
    """"mean" over items, "sum", or "none": one number per item."""
    weight: Sequence[float] | Tensor | None
    """One factor of at least 0 per channel."""
    ignore_index: int | None
    """Value of the target that means "not annotated"."""
    mask: Shaped[Tensor, "b ..."] | None
    """(b, *space) or (b, 1, *space), zero where the target is not annotated."""
    spacing: Sequence[float] | None
    """Size of a pixel along each axis, where lengths have a meaning for the loss."""


def eager(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Return a loss that `torch.compile` runs as it is, between two graphs.

    As `torch.compiler.disable`, which loads the compiler at once, longer than all the losses take;
    this one waits for the first call.
    """
    return cast("Callable[P, Tensor]", torch._disable_dynamo(function))


def judge(
    items: Callable[[Batch], Float[Tensor, " b"]],
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    options: Options,
    *,
    min_classes: int = 2,
) -> Float[Tensor, "*b"]:
    """Return a loss from its function of a batch.

    Args:
        items: one number per item of the batch.
        logits: raw scores of any floating type.
        target: labels (b, *space) or (b, 1, *space), or maps (b, c, *space).
        options: see `Options`.
        min_classes: channels that the loss needs without `sigmoid`.

    Raises:
        InputError: "loss.wrong_shape", "loss.not_finite", "loss.wrong_target", "loss.wrong_mask",
            "loss.not_probabilities".
        ConfigError: "loss.unknown_option", "loss.bad_activation", "loss.bad_reduction",
            "loss.bad_weights", "loss.bad_spacing".
    """
    return _judge(items, logits, target, options, min_classes)


# Once more, as compiling a loss by itself looks behind the first `eager`.
@eager
def _judge(
    items: Callable[[Batch], Tensor],
    logits: Tensor,
    target: Tensor,
    options: Options,
    min_classes: int,
) -> Tensor:
    reduction = options.get("reduction", "mean")
    if reduction not in REDUCTIONS:
        raise ConfigError(
            "loss.bad_reduction", f"No reduction {reduction!r}.", f"Known: {', '.join(REDUCTIONS)}."
        )
    with torch.autocast(logits.device.type, enabled=False):
        values = items(as_batch(logits, target, min_classes, **options))
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()


def as_batch(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    min_classes: int = 2,
    **options: Unpack[Options],
) -> Batch:
    """Return scores and target in the one form that losses work on.  Raises as `judge`."""
    unknown = sorted(options.keys() - Options.__annotations__.keys())
    if unknown:
        raise ConfigError(
            "loss.unknown_option",
            f"No loss has a setting {unknown[0]!r}, or not this one.",
            f"All take {', '.join(sorted(Options.__annotations__))}; see the loss for its own.",
        )
    regions, given = _activation(options)
    check_scores(logits, 1 if regions or given else min_classes)
    low, high = check_finite(logits, "scores")
    # One channel of probabilities is one region.
    regions = regions or (given and logits.shape[1] == 1)
    scores = working(logits)
    if given:
        scores = _scores_of(scores, regions, low, high)
    else:
        _warn_of_probabilities(logits, regions, low, high)
    if options.get("to_onehot_y") and is_maps(target, tuple(logits.shape), regions=regions):
        raise InputError(
            "loss.wrong_target",
            f"to_onehot_y was asked for, and the target {tuple(target.shape)} has maps already.",
            "Give labels (b, 1, *space), or leave to_onehot_y out.",
        )
    target, inside = _annotated(target, scores, options, regions=regions)
    check_target(tuple(logits.shape), target, regions=regions)
    return Batch(
        scores,
        _one_form(target, scores, regions=regions),
        inside,
        regions,
        options.get("include_background"),
        _weight(options.get("weight"), scores, options.get("include_background")),
        _spacing(options.get("spacing"), logits.ndim - 2),
    )


def published(options: Options) -> None:
    """Refuse options beside the published code, which has none (code "loss.not_published")."""
    if any(value is not None and value is not False for value in options.values()):
        given = ", ".join(sorted(options))
        raise ConfigError(
            "loss.not_published",
            f"The published code of this loss has no {given}.",
            "Leave `compat` off, or these options out.",
        )


def _activation(options: Options) -> tuple[bool, bool]:
    """Return whether channels are regions, and whether probabilities are given."""
    sigmoid = options.get("sigmoid", False)
    softmax = options.get("softmax", not sigmoid)
    if sigmoid and softmax:
        raise ConfigError(
            "loss.bad_activation",
            "sigmoid and softmax exclude each other.",
            "sigmoid: masks that may overlap.  softmax: each pixel has one class.",
        )
    return sigmoid, not (sigmoid or softmax)


def _scores_of(p: Tensor, regions: bool, low: float, high: float) -> Tensor:
    """Return scores whose activation gives the probabilities."""
    sums_to_one = regions or bool(((p.sum(dim=1) - 1).abs() < 1e-2).all())
    if low < 0 or high > 1 or not sums_to_one:
        raise InputError(
            "loss.not_probabilities",
            "Neither sigmoid nor softmax was asked for, and the input is no probabilities.",
            "Give sigmoid=True or softmax=True with scores.",
        )
    kept = p.clamp(TINY, 1 - TINY)
    return torch.logit(kept) if regions else kept.log()


def _warn_of_probabilities(logits: Tensor, regions: bool, low: float, high: float) -> None:
    if low < 0 or high > 1 or low == high:
        return
    if not regions and bool(((logits.detach().float().sum(dim=1) - 1).abs() > 1e-2).any()):
        return
    warnings.warn(
        "The scores of a loss look like probabilities: all lie between 0 and 1.  Losses apply "
        "softmax or sigmoid themselves; give raw scores, or sigmoid=False and softmax=False.",
        stacklevel=4,
    )


def _annotated(
    target: Tensor, scores: Tensor, options: Options, *, regions: bool
) -> tuple[Tensor, Bool[Tensor, "b ..."] | None]:
    """Return the target with zeros where nothing is annotated, and where something is."""
    ignored = options.get("ignore_index")
    inside = _mask(options.get("mask"), scores)
    has_channels = target.ndim == scores.ndim
    if ignored is not None:
        found = target == ignored
        found = found.any(dim=1) if has_channels else found
        if tuple(found.shape) == (len(scores), *scores.shape[2:]) and bool(found.any()):
            inside = ~found if inside is None else inside & ~found
    if inside is None or tuple(target.shape[has_channels + 1 :]) != tuple(inside.shape[1:]):
        return target, inside
    kept = inside[:, None] if has_channels else inside
    zero = torch.zeros((), dtype=target.dtype, device=target.device)
    filled = torch.where(kept, target, zero)
    if is_maps(target, tuple(scores.shape), regions=regions) and not regions:
        # Maps of classes sum to one everywhere: what is not annotated counts as background.
        filled[:, 0] = torch.where(inside, filled[:, 0], torch.ones_like(zero))
    return filled, inside


def _one_form(target: Tensor, scores: Tensor, *, regions: bool) -> Tensor:
    """Return labels, or floating maps."""
    if is_maps(target, tuple(scores.shape), regions=regions):
        return target.to(scores.dtype)
    if regions and scores.shape[1] == 1:
        return hard_labels(target)[:, None].to(scores.dtype)
    return target


def _mask(mask: Tensor | None, scores: Tensor) -> Bool[Tensor, "b ..."] | None:
    if mask is None:
        return None
    flat = (len(scores), *scores.shape[2:])
    if mask.ndim == scores.ndim and mask.shape[1] == 1:
        mask = mask[:, 0]
    if tuple(mask.shape) != flat:
        raise InputError(
            "loss.wrong_mask",
            f"A mask of shape {tuple(mask.shape)} does not fit {tuple(scores.shape)}.",
            "Give (b, *space) or (b, 1, *space), zero where nothing is annotated.",
        )
    return mask.to(scores.device) != 0


def _weight(
    weight: Sequence[float] | Tensor | None, scores: Tensor, background: bool | None
) -> Float[Tensor, " c"] | None:
    """Return one factor per channel; without a judged background it may be left out."""
    if weight is None:
        return None
    n = scores.shape[1]
    found = torch.as_tensor(weight, dtype=torch.float64).reshape(-1)
    if background is False and found.numel() == n - 1:
        found = torch.cat((found.new_ones(1), found))
    if found.numel() != n or not bool(torch.isfinite(found).all()) or bool((found < 0).any()):
        raise ConfigError(
            "loss.bad_weights",
            f"Weights {found.tolist()} do not fit {n} channels.",
            "Give one number of at least 0 per channel, the background first.",
        )
    return found.to(scores)


def _spacing(spacing: Sequence[float] | None, n_dims: int) -> tuple[float, ...]:
    if spacing is None:
        return (1.0,) * n_dims
    sizes = [float(size) for size in spacing]
    if len(sizes) != n_dims or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise ConfigError(
            "loss.bad_spacing",
            f"Spacing {sizes} does not fit {n_dims} axes.",
            "Give one positive length per axis, in the order of the array.",
        )
    return tuple(size / min(sizes) for size in sizes)
