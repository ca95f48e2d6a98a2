"""Hash grids on an NVIDIA GPU through tiny-cuda-nn, where that is installed.

Its table holds the same rows in the same order as `hashgrid` with convention "tcnn", so weights
move freely between the two.  `encode_reference` runs on any device without it, only slower.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.backends import require
from geo3d.errors import ConfigError
from geo3d.fields.hashgrid import HashGridConfig, row_count

_INTERPOLATIONS = {"linear": "Linear", "smoothstep": "Smoothstep"}
_GRIDS = {"hash": "Hash", "tiled": "Tiled"}


class TinyCudaHashGrid(nn.Module):
    """A hash grid computed by tiny-cuda-nn in float32 on the GPU.

    Raises:
        ConfigError: ``config.bad_value`` for the gridencoder convention.
        BackendUnavailable: ``backend.unavailable``.
    """

    def __init__(self, config: HashGridConfig) -> None:
        super().__init__()
        settings = tinycudann_settings(config)
        library: Any = require("tinycudann")
        self.config = config
        self.encoding = library.Encoding(config.dim, settings, dtype=torch.float32)

    def forward(self, points: Float[Tensor, "p d"]) -> Float[Tensor, "p width"]:
        """Encode points of the unit box that are on the GPU."""
        return self.encoding(points)

    def table(self) -> Float[Tensor, "rows c"]:
        """Return the table in the shape `hashgrid.HashGrid` has."""
        return self.encoding.params.view(row_count(self.config), self.config.features)

    def set_table(self, table: Float[Tensor, "rows c"]) -> None:
        """Take the table of a `hashgrid.HashGrid`."""
        with torch.no_grad():
            self.encoding.params.copy_(table.reshape(-1))


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
