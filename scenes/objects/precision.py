"""Half precision where the published networks use it: in the weights of the torso alone.

The *torso* is every convolution and linear layer inside the lists of blocks.  The embedding of the
time, the input and output layers, every norm and the position codes stay float32: norms compute in
float32 whatever they are fed (`scenes.objects.attention.LayerNorm32`).  A network keeps float32
weights while it is trained; `halved_copy` makes the network that runs.

Source: Xiang et al., "Structured 3D Latents" (TRELLIS, 2024), released checkpoints.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from geo3d.errors import ConfigError

_Network = TypeVar("_Network", bound=nn.Module)

TORSO = ("blocks", "input_blocks", "out_blocks", "middle_block", "upsample")
"""Lists of blocks whose weights may be halves."""
TORSO_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Types of a torso by name."""


def set_torso(network: _Network, dtype: torch.dtype) -> _Network:
    """Convert the torso of ``network`` in place and return it.

    Raises:
        ConfigError: ``precision.unknown`` (a type no torso may have).
    """
    if dtype not in TORSO_TYPES.values() and dtype != torch.float64:
        raise ConfigError(
            "precision.unknown",
            f"A torso cannot be {dtype}.",
            f"Choose one of {', '.join(TORSO_TYPES)}.",
        )
    for name, part in network.named_children():
        if name in TORSO:
            part.apply(lambda module: _convert(module, dtype))
    return network


def halved_copy(network: _Network, dtype: torch.dtype) -> _Network:
    """Return a copy to run, with its torso in ``dtype``; ``network`` keeps the float32 masters."""
    twin = copy.deepcopy(network)
    return set_torso(twin, dtype).requires_grad_(False).eval()


def torso_dtype(network: nn.Module) -> torch.dtype:
    """Return the type of the torso's weights, float32 for a network without one."""
    for name, part in network.named_children():
        if name in TORSO:
            for module in part.modules():
                if _is_torso(module):
                    return next(module.parameters(recurse=False)).dtype
    return torch.float32


def default_torso(device: torch.device) -> torch.dtype:
    """Return the type that is fast and safe on ``device``: halves only on accelerators."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float16 if device.type == "mps" else torch.float32


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    if _is_torso(module):
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)


def _is_torso(module: nn.Module) -> bool:
    # Matrices and kernels: a norm's weight has one axis, and that of heads is called gamma.
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.ndim >= 2
