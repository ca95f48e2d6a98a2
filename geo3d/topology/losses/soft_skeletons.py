"""The soft skeleton for training: numbers of `geo3d.topology.skeleton`, less time and memory.

Autograd through the pooling keeps about ten maps per round.  Here a round is two maps (eroded map
and skeleton so far), some rounds are kept and the others computed again on the way back: in
compiled loops on the CPU in float32, through torch's own checkpointing elsewhere.

Beyond the plain skeleton, each map has its own number of rounds; pixels outside the annotated part
are nobody's neighbours; and what a map holds above 1/2 after its last round, its core, can be added
to the skeleton.  Without the core a thing wider than the rounds reach has no skeleton at all, and a
loss of skeletons sees nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from geo3d.topology.losses.memory import in_threads
from geo3d.topology.losses.skeleton_kernels import (
    erode_round,
    grow_round,
    unerode_round,
    ungrow_round,
)
from geo3d.topology.skeleton import check_rounds, reach_of_round, skeleton_round

KEPT = 4
"""Compiled rounds between two that are kept: of 20 rounds, the memory of 9."""
CORE = 0.5
"""What counts as being there after the last round."""


@dataclass(frozen=True, eq=False)
class Thinning:
    """How maps (b, k, *space) are thinned.

    Attributes:
        rounds: of each map.
        spacing: relative size of a pixel along each axis, the smallest 1.
        outside: pixels that are nobody's neighbours.
        core: whether what is left above `CORE` counts as skeleton.
    """

    rounds: Int64[np.ndarray, "b k"]
    spacing: tuple[float, ...]
    outside: Bool[np.ndarray, "b ..."] | None = None
    core: bool = False


def light_soft_skeleton(
    probabilities: Float[Tensor, "b k *space"], rounds: int | Thinning
) -> Float[Tensor, "b k *space"]:
    """Return the soft skeleton of each map after a number of rounds, differentiable once.

    Raises:
        ConfigError: "topology.bad_rounds".
    """
    if isinstance(rounds, int):
        check_rounds(rounds)
        given = np.full(probabilities.shape[:2], rounds)
        rounds = Thinning(given, (1.0,) * (probabilities.ndim - 2))
    if probabilities.device.type == "cpu" and probabilities.dtype == torch.float32:
        return _CompiledSkeleton.apply(probabilities, rounds)  # pyright: ignore[reportReturnType]
    return _torch_skeleton(probabilities, rounds)


def _torch_skeleton(
    probabilities: Float[Tensor, "b k *space"], how: Thinning
) -> Float[Tensor, "b k *space"]:
    device = probabilities.device
    outside = None
    if how.outside is not None:
        outside = torch.from_numpy(how.outside).to(device)[:, None]
    left = torch.from_numpy(how.rounds).to(device)
    left = left.reshape(*left.shape, *(1 for _ in how.spacing))
    eroded, skeleton = probabilities, torch.zeros_like(probabilities)
    for number in range(int(how.rounds.max()) + 1):
        settings = (eroded, skeleton, reach_of_round(number, how.spacing), outside)
        if torch.is_grad_enabled() and probabilities.requires_grad:
            after = checkpoint(skeleton_round, *settings, use_reentrant=False)
        else:
            after = skeleton_round(*settings)
        goes_on = left >= number
        eroded, skeleton = (
            torch.where(goes_on, new, old)
            for new, old in zip(after, (eroded, skeleton), strict=True)
        )
    if how.core:
        core = torch.where(eroded > CORE, eroded, 0)
        skeleton = skeleton + core * (1 - skeleton)
    return skeleton if outside is None else skeleton.masked_fill(outside, 0)


class _CompiledSkeleton(torch.autograd.Function):
    """All rounds in compiled loops, map by map, of which every `KEPT`-th is remembered."""

    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, how: Thinning) -> Tensor:
        # Autograd notices a change of the input in place, which would spoil the first map.
        ctx.save_for_backward(probabilities)
        ctx.maps = [
            _OneMap(x, int(rounds), how.spacing, outside, core=how.core, keeps=_needs(ctx))
            for x, rounds, outside in zip(
                _as_volumes(probabilities), how.rounds.ravel(), _outsides(how), strict=True
            )
        ]
        found = np.stack(in_threads(_OneMap.forward, ctx.maps))
        return torch.from_numpy(found.reshape(probabilities.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        _ = ctx.saved_tensors
        pairs = list(zip(ctx.maps, _as_volumes(grad), strict=True))
        found = in_threads(lambda pair: pair[0].backward(pair[1]), pairs)
        return torch.from_numpy(np.stack(found).reshape(grad.shape)), None


def _needs(ctx: Any) -> bool:
    return bool(ctx.needs_input_grad[0])


def _outsides(how: Thinning) -> list[np.ndarray | None]:
    """Return for each map what lies outside, as (1, d, h, w)."""
    b, k = how.rounds.shape
    if how.outside is None:
        return [None] * (b * k)
    shape = (1, *(1 for _ in range(3 - len(how.spacing))), *how.outside.shape[1:])
    return [item.reshape(shape) for item in how.outside for _ in range(k)]


class _OneMap:
    """The rounds of one map (1, d, h, w), there and back.

    Outside pixels hold 2 in a map that is eroded and -1 in one that is dilated: they never win.
    """

    def __init__(
        self,
        x: np.ndarray,
        rounds: int,
        spacing: tuple[float, ...],
        outside: np.ndarray | None,
        *,
        core: bool,
        keeps: bool,
    ) -> None:
        self.first = x if outside is None else np.where(outside, np.float32(2), x)
        self.rounds, self.outside, self.core, self.keeps = rounds, outside, core, keeps
        flat = (0,) * (3 - len(spacing))
        self.reach = [(*flat, *reach_of_round(k, spacing)) for k in range(rounds + 1)]
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []
        self.last: tuple[np.ndarray, np.ndarray] | None = None

    def forward(self) -> np.ndarray:
        """Return the skeleton."""
        x, s = self.first, np.zeros_like(self.first)
        for k in range(self.rounds + 1):
            if self.keeps and k % KEPT == 0:
                self.kept.append((x, s))
            x, s = self.round(k, x, s)
        if self.core:
            inner = self.core_of(x)
            if inner.any():
                self.last = (inner, s)
                s = s + inner * (1 - s)
        return s if self.outside is None else np.where(self.outside, np.float32(0), s)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """Return the gradient of the map."""
        grad_s = grad.copy()
        if self.outside is not None:
            grad_s[self.outside] = 0
        grad_x = np.zeros_like(grad_s)
        if self.last is not None:
            inner, s = self.last
            grad_x[inner > 0] = (grad_s * (1 - s))[inner > 0]
            grad_s *= 1 - inner
        for first in range(len(self.kept) - 1, -1, -1):
            maps = [self.kept[first]]
            numbers = range(first * KEPT, min((first + 1) * KEPT, self.rounds + 1))
            for k in numbers:
                maps.append(self.round(k, *maps[-1]))
            for k, (x, s), (e, _) in zip(numbers[::-1], maps[-2::-1], maps[:0:-1], strict=True):
                grad_e = grad_x
                reach = self.reach[k]
                grad_x = ungrow_round(x, self.dilated(e), s, grad_s, grad_e, reach)
                if self.outside is not None:
                    grad_e[self.outside] = 0
                unerode_round(x, grad_e, grad_x, reach)
        if self.outside is not None:
            grad_x[self.outside] = 0
        return grad_x

    def round(self, k: int, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the eroded map and the skeleton with this round's ridge."""
        e, grown = np.empty_like(x), np.empty_like(x)
        erode_round(x, e, self.reach[k])
        grow_round(x, self.dilated(e), s, grown, self.reach[k])
        if self.outside is not None:
            e[self.outside] = 2
        return e, grown

    def dilated(self, e: np.ndarray) -> np.ndarray:
        """Return an eroded map as dilation reads it."""
        return e if self.outside is None else np.where(self.outside, np.float32(-1), e)

    def core_of(self, x: np.ndarray) -> np.ndarray:
        """Return what is left of the map inside."""
        inner = np.where(x > CORE, x, np.float32(0))
        if self.outside is not None:
            inner[self.outside] = 0
        return inner


def _as_volumes(values: Tensor) -> list[np.ndarray]:
    """Return each map as (1, d, h, w); images get a depth of one."""
    array = np.ascontiguousarray(values.detach().numpy())
    depth = array.shape[2] if array.ndim == 5 else 1
    return list(array.reshape(-1, 1, depth, *array.shape[-2:]))
