"""The sky: colour by direction, behind everything.

A small network on sines of the direction (the paper's text), or the release's grid of colours on
the cube, kept for comparison only: near the axes half of its neighbours lie outside and it darkens.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenes.urban.field_network import linear

OCTAVES = 4


class Sky(nn.Module):
    """Colour of the sky in a direction."""

    def __init__(self, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        width = 3 + 6 * OCTAVES
        self.layers = nn.ModuleList([linear(n, hidden, generator) for n in (width, hidden, hidden)])
        self.out = linear(hidden, 3, generator)

    def forward(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        """Return colours in [0, 1]; directions of any length."""
        unit = nn.functional.normalize(directions, dim=-1)
        waves = [wave(unit * 2.0**k) for k in range(OCTAVES) for wave in (torch.sin, torch.cos)]
        x = torch.cat([unit, *waves], dim=-1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return torch.sigmoid(self.out(x))


class SkyGrid(nn.Module):
    """The release's sky: a cube of colours read at the unit direction."""

    def __init__(self, size: int = 100) -> None:
        super().__init__()
        self.grid = nn.Parameter(torch.ones(1, 3, size, size, size))

    def forward(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        """Return colours in [0, 1]; directions of any length."""
        unit = nn.functional.normalize(directions, dim=-1).flip(-1)
        found = nn.functional.grid_sample(
            self.grid, unit[None, None, None], align_corners=False, padding_mode="zeros"
        )
        return found[0, :, 0, 0].T.clamp(0, 1)
