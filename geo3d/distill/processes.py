"""One process or many: what a training loop asks of them.

Alone, a loop runs as it is.  Under ``torchrun`` (WORLD_SIZE above 1) Accelerate connects the
processes; every one computes its share of a batch and gradients are averaged.

    processes = connect(device)
    network, optimizer = processes.prepare(network, optimizer)
    processes.backward(loss)
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from geo3d.errors import BackendUnavailable


class Alone:
    """A single process."""

    rank = 0
    """Number of this process; 0 writes the files."""
    count = 1
    """Processes in all."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, network: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
        """Return both as they are."""
        return network, optimizer

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        loss.backward()

    def mean(self, value: Tensor) -> Tensor:
        """Return ``value``."""
        return value


class Accelerated:
    """Processes started by ``torchrun``, connected by Accelerate."""

    def __init__(self, device: torch.device) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise BackendUnavailable(
                "backend.accelerate_missing",
                "Training in several processes needs Accelerate.",
                "pip install 'geo3d[distributed]', or start a single process.",
            ) from error
        self._accelerator = Accelerator(cpu=device.type == "cpu")
        self.rank = self._accelerator.process_index
        self.count = self._accelerator.num_processes
        self.device = self._accelerator.device

    def prepare(self, network: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
        """Return both wrapped, with the first process's weights."""
        return self._accelerator.prepare(network, optimizer)

    def backward(self, loss: Tensor) -> None:
        """Compute gradients and average them."""
        self._accelerator.backward(loss)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of ``value`` over processes."""
        return self._accelerator.reduce(value, "mean")  # type: ignore[return-value]


Processes = Alone | Accelerated


def connect(device: torch.device) -> Processes:
    """Return this process, or the group ``torchrun`` put it in.

    Raises:
        BackendUnavailable: ``backend.accelerate_missing``.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return Accelerated(device)
    return Alone(device)
