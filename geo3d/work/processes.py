"""One process or many: what a training loop asks of them.

Alone, a loop runs as it is.  Under ``torchrun`` (WORLD_SIZE above 1) Accelerate connects the
processes; every one computes its share of a batch and gradients are averaged.

    processes = connect(device, batch)
    processes.shard(network)            # or leave all weights in every process
    loss.backward()
    processes.average_gradients(network.parameters())
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from geo3d.errors import BackendUnavailable, ConfigError

BUCKET = 1 << 24
"""Gradients averaged at once."""


class Processes:
    """This process alone, or the group that ``torchrun`` started, connected by Accelerate."""

    rank = 0
    """Number of this process; 0 writes the files."""
    count = 1
    """Processes in all."""

    def __init__(self, device: torch.device, *, is_group: bool = False) -> None:
        self.device = device
        self._accelerator: Any = None
        if not is_group:
            return
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

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of ``value`` over processes."""
        return value if self._accelerator is None else self._accelerator.reduce(value, "mean")

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average gradients over processes.

        Any number of forward passes of any kind may come before; all processes must have
        gradients for the same parameters.
        """
        if self.count == 1:
            return
        # Those of sharded weights are averages already.
        gradients = [p.grad for p in parameters if p.grad is not None and not is_sharded(p.grad)]
        for dtype in sorted({g.dtype for g in gradients}, key=str):
            alike = [g for g in gradients if g.dtype == dtype]
            for bucket in _buckets(alike):
                flat = self.mean(torch.cat([g.flatten() for g in bucket]))
                parts = flat.split([g.numel() for g in bucket])
                for gradient, part in zip(bucket, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))

    def shard(self, network: nn.Module) -> None:
        """Spread the weights over the processes (FSDP2); each holds a part of every one.

        Blocks in lists that have ``forward_packed`` are gathered one at a time, when they are used.
        Gradients are averaged as they are computed.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(self.device.type, (self.count,))
        # Layers that pass on other objects than tensors cannot be told when to gather again for the
        # backward pass; they stay gathered with what is outside of lists.
        lists = [m for m in network.modules() if isinstance(m, nn.ModuleList)]
        for block in (b for blocks in lists for b in blocks if hasattr(b, "forward_packed")):
            fully_shard(block, mesh=mesh)
            register_fsdp_forward_method(block, "forward_packed")
        fully_shard(network, mesh=mesh, reshard_after_forward=False)


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield runs of tensors of at most `BUCKET` numbers, or single ones."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def is_sharded(tensor: Tensor) -> bool:
    """Return whether each process holds only a part of a tensor."""
    # Loading torch's module costs as much as torch itself; where nobody has, nothing is sharded.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Return all of a sharded tensor, on every process; all of them must call."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def spread_like(tensor: Tensor, like: Any) -> Tensor:
    """Return ``tensor``, which every process has, sharded as ``like`` (a tensor) is."""
    if not is_sharded(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def connect(device: torch.device, batch: int) -> Processes:
    """Return this process, or the group ``torchrun`` put it in, to share batches of that size.

    Raises:
        BackendUnavailable: ``backend.accelerate_missing``.
        ConfigError: ``training.bad_batch``.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if batch % count:
        raise ConfigError(
            "training.bad_batch",
            f"A batch of {batch} cannot be shared by {count} processes.",
            "Choose a multiple.",
        )
    return Processes(device, is_group=count > 1)
