"""The soft skeleton for training: same numbers as `geo3d.topology.skeleton`, less time and memory.

Autograd through the pooling keeps about ten maps per round.  Here a round is two maps (eroded map
and skeleton so far), some rounds are kept and the others computed again on the way back: in
compiled loops on the CPU in float32, through torch's own checkpointing elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from geo3d.topology.losses.skeleton_kernels import (
    erode_round,
    grow_round,
    unerode_round,
    ungrow_round,
)
from geo3d.topology.skeleton import check_rounds, soft_dilate, soft_erode

KEPT = 4
"""Compiled rounds between two that are kept: of 20 rounds, the memory of 9."""


def light_soft_skeleton(
    probabilities: Float[Tensor, "b c *space"], rounds: int
) -> Float[Tensor, "b c *space"]:
    """Return the soft skeleton of each map after a number of rounds, differentiable once.

    Raises:
        ConfigError: "topology.bad_rounds".
    """
    check_rounds(rounds)
    if probabilities.device.type == "cpu" and probabilities.dtype == torch.float32:
        return _CompiledSkeleton.apply(probabilities, rounds)  # pyright: ignore[reportReturnType]
    eroded, skeleton = probabilities, torch.zeros_like(probabilities)
    for _ in range(rounds + 1):
        if torch.is_grad_enabled() and probabilities.requires_grad:
            eroded, skeleton = checkpoint(_round, eroded, skeleton, use_reentrant=False)
        else:
            eroded, skeleton = _round(eroded, skeleton)
    return skeleton


def _round(x: Tensor, skeleton: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eroded map and the skeleton with this round's ridge."""
    eroded = soft_erode(x)
    ridge = torch.relu(x - soft_dilate(eroded))
    return eroded, skeleton + torch.relu(ridge - skeleton * ridge)


class _CompiledSkeleton(torch.autograd.Function):
    """All rounds in compiled loops, of which every `KEPT`-th is remembered."""

    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, rounds: int) -> Tensor:
        x = _as_volumes(probabilities)
        s = np.zeros_like(x)
        ctx.kept, ctx.rounds, ctx.volume = [], rounds, probabilities.ndim == 5
        for k in range(rounds + 1):
            if ctx.needs_input_grad[0] and k % KEPT == 0:
                ctx.kept.append((x, s))
            x, s = _compiled_round(x, s, ctx.volume)
        # Autograd notices a change of the input in place, which would spoil the first map.
        ctx.save_for_backward(probabilities)
        return torch.from_numpy(s.reshape(probabilities.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        _ = ctx.saved_tensors
        grad_s = _as_volumes(grad).copy()
        grad_x = np.zeros_like(grad_s)
        for first in range(len(ctx.kept) - 1, -1, -1):
            maps = [ctx.kept[first]]
            for _ in range(min(KEPT, ctx.rounds + 1 - first * KEPT)):
                x, s = maps[-1]
                maps.append(_compiled_round(x, s, ctx.volume))
            for (x, s), (e, _) in zip(maps[-2::-1], maps[:0:-1], strict=True):
                grad_e = grad_x
                grad_x = ungrow_round(x, e, s, grad_s, grad_e)
                unerode_round(x, grad_e, grad_x, ctx.volume)
        return torch.from_numpy(grad_x.reshape(grad.shape)), None


def _compiled_round(x: np.ndarray, s: np.ndarray, volume: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the eroded map and the skeleton with this round's ridge."""
    e, grown = np.empty_like(x), np.empty_like(x)
    erode_round(x, e, volume)
    grow_round(x, e, s, grown)
    return e, grown


def _as_volumes(values: Tensor) -> np.ndarray:
    """Return maps as (n, d, h, w); pictures get a depth of one."""
    array = np.ascontiguousarray(values.detach().numpy())
    depth = array.shape[2] if array.ndim == 5 else 1
    return array.reshape(-1, depth, *array.shape[-2:])
