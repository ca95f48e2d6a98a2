"""Hash grids on an NVIDIA GPU through tiny-cuda-nn, where that is installed.

Its table holds the same rows in the same order as `hashgrid` with convention "tcnn", so tables are
lent to it for a call and weights move freely.  `encode_reference` runs on any device without it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from geo3d.backends import available, require
from geo3d.errors import ConfigError
from geo3d.fields.levels import HashGridConfig

_INTERPOLATIONS = {"linear": "Linear", "smoothstep": "Smoothstep"}
_GRIDS = {"hash": "Hash", "tiled": "Tiled"}
_GPU = torch.device("cuda")


def can_encode(config: HashGridConfig) -> bool:
    """Return whether tiny-cuda-nn is here and computes such a grid."""
    return config.convention == "tcnn" and _is_here()


def encode_gpu(
    points: Float[Tensor, "p d"], table: Float[Tensor, "rows c"], config: HashGridConfig
) -> Float[Tensor, "p width"]:
    """Encode points of the unit box in float32; differentiable in ``table`` and ``points``.

    Tensors of the CPU are copied to the GPU and the result and gradients back, at every call.

    Raises:
        ConfigError, BackendUnavailable: see `tinycudann_encoding`.
    """
    encoding = tinycudann_encoding(config)
    device = points.device if points.device.type == "cuda" else _GPU
    rows = table.reshape(-1).to(device)
    return functional_call(encoding, {"params": rows}, (points.to(device),)).to(points.device)


@functools.cache
def tinycudann_encoding(config: HashGridConfig) -> Any:
    """Return tiny-cuda-nn's module for such grids, without a table of its own.

    Raises:
        ConfigError: ``config.bad_value`` for the gridencoder convention.
        BackendUnavailable: ``backend.unavailable``.
    """
    settings = tinycudann_settings(config)
    encoding = require("tinycudann").Encoding(config.dim, settings, dtype=torch.float32)
    # every call lends it a table, so its own need not fill the memory
    encoding.params = torch.nn.Parameter(encoding.params.detach()[:0].clone(), False)
    return encoding


def tinycudann_settings(config: HashGridConfig) -> dict[str, Any]:
    """Return the settings under the names that tiny-cuda-nn has for them.

    Raises:
        ConfigError: ``config.bad_value`` for the gridencoder convention.
    """
    if config.convention != "tcnn":
        raise ConfigError(
            "config.bad_value",
            f"tiny-cuda-nn cannot compute a hash grid of the {config.convention} convention.",
            'Set convention: "tcnn".',
        )
    return {
        "otype": "Grid",
        "type": _GRIDS[config.grid],
        "n_levels": config.levels,
        "n_features_per_level": config.features,
        "log2_hashmap_size": config.log2_rows,
        "base_resolution": config.base,
        "per_level_scale": config.factor,
        "interpolation": _INTERPOLATIONS[config.interpolation],
    }


@functools.cache
def _is_here() -> bool:
    return available("tinycudann").is_available
