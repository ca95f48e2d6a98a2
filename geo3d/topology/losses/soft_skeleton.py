"""The soft skeleton for training: same numbers as `geo3d.topology.skeleton`, less time and memory.

Autograd through the pooling keeps about ten maps per round.  Here a round keeps two (the eroded map
and the skeleton so far) and its inside is computed again on the way back: in compiled loops on the
CPU in float32, through torch's own checkpointing elsewhere.
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
    """All rounds in compiled loops; `maps` are the eroded maps, `grown` the skeletons so far."""

    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, rounds: int) -> Tensor:
        x = _as_volumes(probabilities)
        volume = probabilities.ndim == 5
        keep = ctx.needs_input_grad[0]
        maps, grown = [x], [np.zeros_like(x)]
        for _ in range(rounds + 1):
            e = np.empty_like(x)
            s = np.empty_like(x) if keep else grown[-1]
            erode_round(maps[-1], e, volume)
            grow_round(maps[-1], e, grown[-1], s)
            maps, grown = ([*maps, e], [*grown, s]) if keep else ([e], [s])
        skeleton = torch.from_numpy(grown[-1].reshape(probabilities.shape))
        ctx.maps, ctx.grown, ctx.volume = maps, grown[:-1], volume
        return skeleton

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad_s = _as_volumes(grad).copy()
        grad_e = np.zeros_like(grad_s)
        for k in range(len(ctx.grown) - 1, -1, -1):
            x, e = ctx.maps[k], ctx.maps[k + 1]
            grad_x = ungrow_round(x, e, ctx.grown[k], grad_s, grad_e)
            unerode_round(x, grad_e, grad_x, ctx.volume)
            grad_e = grad_x
        return torch.from_numpy(grad_e.reshape(grad.shape)), None


def _as_volumes(values: Tensor) -> np.ndarray:
    """Return maps as (n, d, h, w); pictures get a depth of one."""
    array = np.ascontiguousarray(values.detach().numpy())
    depth = array.shape[2] if array.ndim == 5 else 1
    return array.reshape(-1, depth, *array.shape[-2:])
