"""Parts of a training step: gradient clipping, float32 masters, averages of the weights.

Each has ``tensors()`` and ``restore(tensors)``, so that a training goes on bit by bit.

Source: Xiang et al. 2024 (TRELLIS), released trainer, for the clipper's rule and the loss scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from geo3d.work.processes import spread_like, whole


class AdaptiveClipper:
    """Clips the norm of gradients to a limit that follows the norms seen so far.

    Args:
        max_norm: largest limit; None means none until enough norms are known.
        percentile: of the remembered norms; the limit once ``memory`` norms are known, if lower.
        memory: how many finite norms are remembered.
    """

    def __init__(self, max_norm: float | None, percentile: float = 95.0, memory: int = 1000):
        self.max_norm, self.percentile, self.memory = max_norm, percentile, memory
        self.limit = max_norm
        """Norms above are scaled down to it."""
        self._norms: list[float] = []

    def clip(self, gradients: Sequence[Tensor]) -> float:
        """Scale ``gradients`` in place and return their norm before; not finite: left alone."""
        norm = float(whole(torch.nn.utils.get_total_norm(gradients)))
        if not math.isfinite(norm):
            return norm
        if self.limit is not None:
            factor = min(self.limit / (norm + 1e-6), 1.0)
            for gradient in gradients:
                gradient.mul_(factor)
        self._norms = [*self._norms, norm][-self.memory :]
        if len(self._norms) == self.memory:
            seen = float(np.percentile(self._norms, self.percentile))
            self.limit = seen if self.max_norm is None else min(seen, self.max_norm)
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be kept."""
        limit = [] if self.limit is None else [self.limit]
        return {
            "norms": torch.tensor(self._norms, dtype=torch.float64),
            "limit": torch.tensor(limit, dtype=torch.float64),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from kept tensors."""
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
        self.weights = [
            p if p.dtype == torch.float32 else p.detach().float().clone().requires_grad_()
            for p in self.live
        ]
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
            if self.log_scale:
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
        if self.log_scale:
            self.log_scale += self.growth if is_finite else -1.0

    def tensors(self) -> dict[str, Tensor]:
        """Return the masters by name, and the scale."""
        kept = {f"weights.{n}": w for n, w in zip(self.names, self.weights, strict=True)}
        return {**kept, "log_scale": torch.tensor(self.log_scale, dtype=torch.float64)}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from kept tensors."""
        for name, weight in zip(self.names, self.weights, strict=True):
            weight.copy_(spread_like(tensors[f"weights.{name}"], weight))
        self.log_scale = float(tensors["log_scale"])
        self.publish()


class Average:
    """The running average of master weights; it begins at what they are now.

    Made before the weights are loaded it would keep a share rate^steps of random numbers.
    """

    def __init__(self, masters: Masters, rate: float) -> None:
        self.rate = rate
        self.names = masters.names
        self.weights = [weight.detach().clone() for weight in masters.weights]

    @torch.no_grad()
    def update(self, masters: Masters) -> None:
        """average <- rate average + (1 - rate) weights."""
        for average, weight in zip(self.weights, masters.weights, strict=True):
            average.lerp_(weight, 1 - self.rate)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averaged weights by name."""
        return dict(zip(self.names, self.weights, strict=True))

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from kept tensors."""
        for name, weight in zip(self.names, self.weights, strict=True):
            weight.copy_(spread_like(tensors[name], weight))


class MeanNumbers:
    """Numbers of the steps since the last line of metrics."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def add(self, numbers: dict[str, float]) -> None:
        """Take the numbers of one step."""
        self.steps.append(numbers)

    def means(self) -> dict[str, float]:
        """Return the mean of each number over the steps that have it, and start anew."""
        names = sorted({name for numbers in self.steps for name in numbers})
        values = {n: [numbers[n] for numbers in self.steps if n in numbers] for n in names}
        self.steps = []
        return {name: sum(found) / len(found) for name, found in values.items()}


def parts_of_equal_load(loads: Sequence[int], count: int) -> list[list[int]]:
    """Share items among ``count`` parts: the largest first, each to the lightest part.

    Returns:
        Ascending item numbers of each part; parts that got nothing are left out.
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    weights = [0] * count
    for item in sorted(range(len(loads)), key=lambda i: (-loads[i], i)):
        lightest = weights.index(min(weights))
        parts[lightest].append(item)
        weights[lightest] += max(loads[item], 1)
    return [sorted(part) for part in parts if part]
