"""What a training does with gradients: clipping, float32 masters and the scale of the loss.

Each has ``tensors()`` and ``restore(tensors)``, so that a training resumes bit by bit.

Source: Xiang et al. 2024 (TRELLIS), released trainer, for the clipper's rule and the loss scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.work.processes import spread_like, whole

TINY = 1e-6
"""Added to a norm before it divides, as torch's ``clip_grad_norm_`` does."""


def gradient_norm(gradients: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Return the norm of all gradients together, whole where they are sharded."""
    return whole(torch.nn.utils.get_total_norm(gradients))


class Clipper:
    """Clips the norm of gradients to a limit, which can follow the norms seen so far.

    Args:
        max_norm: largest limit; None means none (until enough norms are known).
        percentile: of the remembered norms; the limit once ``memory`` norms are known, if lower.
            None leaves the limit at ``max_norm``.
        memory: how many finite norms are remembered.
    """

    def __init__(
        self, max_norm: float | None = None, percentile: float | None = None, memory: int = 1000
    ) -> None:
        self.max_norm, self.percentile, self.memory = max_norm, percentile, memory
        self.limit = max_norm
        """Norms above are scaled down to it."""
        self._norms: list[float] = []

    def clip(self, gradients: Sequence[Tensor], total: Tensor) -> None:
        """Scale ``gradients`` in place; those whose norm ``total`` is not finite are left alone."""
        norm = float(total)
        if not math.isfinite(norm):
            return
        if self.limit is not None:
            # in the gradients' precision, as torch's clip_grad_norm_; an adaptive limit in float64
            is_fixed = self.percentile is None
            factor = self.limit / (total + TINY) if is_fixed else self.limit / (norm + TINY)
            for gradient in gradients:
                gradient.mul_(min(factor, 1.0))
        if self.percentile is not None:
            self._norms = [*self._norms, norm][-self.memory :]
            if len(self._norms) == self.memory:
                seen = float(np.percentile(self._norms, self.percentile))
                self.limit = seen if self.max_norm is None else min(seen, self.max_norm)

    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be kept."""
        limit = [] if self.limit is None else [self.limit]
        return {
            "norms": torch.tensor(self._norms, dtype=torch.float64),
            "limit": torch.tensor(limit, dtype=torch.float64),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up kept tensors."""
        self._norms = tensors["norms"].tolist()
        self.limit = next(iter(tensors["limit"].tolist()), None)


class Masters:
    """Float32 weights that the optimiser moves, behind the ones that the network runs with.

    Weights that are float32 already are their own masters.

    Args:
        network: its trainable parameters get masters.
        log_scale: power of two that the loss is multiplied by; 0 leaves it alone for good.
        growth: added to it after every finite step; 1 is taken off after any other.
    """

    def __init__(self, network: nn.Module, log_scale: float = 0.0, growth: float = 0.0) -> None:
        named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.live = [parameter for _, parameter in named]
        self.weights = nn.ParameterList(
            p if p.dtype == torch.float32 else nn.Parameter(p.detach().float().clone())
            for p in self.live
        )
        self.is_scaled = log_scale > 0
        self.log_scale, self.growth = log_scale, growth

    @property
    def scale(self) -> float:
        """What the loss is multiplied by."""
        return 2.0**self.log_scale

    def take_gradients(self) -> list[Tensor]:
        """Give the masters the network's gradients, unscaled, and return them."""
        gradients = []
        for weight, parameter in zip(self.weights, self.live, strict=True):
            if parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            if self.is_scaled:
                gradient = gradient / self.scale
            weight.grad = gradient
            gradients.append(gradient)
        return gradients

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the network."""
        for weight, parameter in zip(self.weights, self.live, strict=True):
            if weight is not parameter:
                parameter.copy_(weight)

    def forget_gradients(self) -> None:
        """Drop all gradients."""
        for tensor in (*self.live, *self.weights):
            tensor.grad = None

    def adapt(self, is_finite: bool) -> None:
        """Raise the loss scale a little, or halve it after an overflow."""
        if self.is_scaled:
            self.log_scale += self.growth if is_finite else -1.0

    def tensors(self) -> dict[str, Tensor]:
        """Return the masters by name, and the scale."""
        kept = {f"weights.{n}": w for n, w in zip(self.names, self.weights, strict=True)}
        return {**kept, "log_scale": torch.tensor(self.log_scale, dtype=torch.float64)}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up kept tensors."""
        for name, weight in zip(self.names, self.weights, strict=True):
            weight.copy_(spread_like(tensors[f"weights.{name}"], weight))
        self.log_scale = float(tensors["log_scale"])
        self.publish()
