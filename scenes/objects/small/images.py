"""The image encoder of the small pipeline learns to guess the object: camera, structure, latents.

It is not trained with the flows, which take its tokens and its guess as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scenes.objects.lifting import Guess, LiftingEncoder, azimuth_bins
from scenes.objects.linear_code import COLORS, LinearSLatEncoder
from scenes.objects.small.autoencoders import cell_coords, cell_features, dice_loss
from scenes.objects.small.cells import CHILDREN, COARSE, CellObject
from scenes.objects.small.settings import IMAGE_ENCODER

_TOLD = 0.5
"""Share of the pictures whose true camera the grid sees by."""
_SWAPPED = 0.5
"""Share of the pictures whose red, green and blue change places, in the object too."""
_MIRRORED = 0.5
"""Share of the pictures that are seen in a mirror, with the object and the camera."""


class ImageTask:
    """Images to a guess of the object."""

    def __init__(self, objects: Sequence[CellObject], latent: LinearSLatEncoder) -> None:
        self.latent = latent.requires_grad_(False)
        self.names = [item.name for item in objects]
        self.coords = [item.coords for item in objects]
        self.views = [item.views for item in objects]
        self.cameras = [torch.from_numpy(item.cameras) for item in objects]
        self.grids = torch.from_numpy(np.stack([item.occupancy() for item in objects]))
        with torch.no_grad():
            self.feats = [
                [latent(cell_features([own])).feats.half() for own in (item, mirrored(item))]
                for item in objects
            ]
        self.encoder = LiftingEncoder(IMAGE_ENCODER)
        self.network = nn.ModuleDict({"encoder": self.encoder})

    def loss(self, items: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the errors of camera, structure, and latents of the cells that there are."""
        pictures, feats, cameras, coords, grids = [], [], [], [], []
        for i in items:
            view = int(torch.randint(len(self.views[i]), (1,), generator=generator))
            order = _order(generator)
            mirror = float(torch.rand(1, generator=generator)) < _MIRRORED
            pixels = torch.from_numpy(self.views[i][view]).float().movedim(-1, 0) / 255
            light = 0.85 + 0.3 * float(torch.rand(1, generator=generator))
            seen = (pixels[order] * light).clamp(max=1)
            pictures.append(seen.flip(2) if mirror else seen)
            own = self.feats[i][mirror].float()
            feats.append(torch.cat([own[:, :-COLORS], own[:, -COLORS:][:, order]], dim=1))
            camera = self.cameras[i][view]
            cameras.append(mirrored_camera(camera) if mirror else camera)
            coords.append(mirrored_coords(self.coords[i]) if mirror else self.coords[i])
            grids.append(self.grids[i].flip(1) if mirror else self.grids[i])
        truth = torch.stack(cameras)
        told = (torch.rand(len(items), generator=generator) < _TOLD).float()
        with torch.autocast("cpu", torch.bfloat16):
            guess = self.encoder.guess(torch.stack(pictures), truth, told)
        cells = cell_coords(coords).long()
        grid = torch.stack(grids).float()
        return losses(guess, truth, grid, cells, torch.cat(feats), self.latent)


def mirrored(item: CellObject) -> CellObject:
    """Return the object with y negated, as far as `CellObject.features` tell of it: cells keep
    their order, and their fine cells stay as they are."""
    corners = item.distances.reshape(-1, *(CHILDREN + 1,) * 3)[:, :, ::-1]
    return replace(
        item, coords=mirrored_coords(item.coords), distances=corners.reshape(len(corners), -1)
    )


def mirrored_coords(coords: np.ndarray) -> np.ndarray:
    """Return cells (n, 3) of an object with y negated, in their order."""
    sides, shift = np.array([[1, -1, 1], [0, COARSE - 1, 0]], np.int8)
    return coords * sides + shift


def mirrored_camera(camera: Float[Tensor, 6]) -> Float[Tensor, 6]:
    """Return the camera that sees the mirrored object in the mirrored image: azimuth and the
    image's centre across change sides."""
    sides = camera.new_tensor([-1, 1, 1, 1, -1, 1])
    return sides * camera + camera.new_tensor([0, 0, 0, 0, 1, 0])


def losses(
    guess: Guess,
    cameras: Float[Tensor, "b 6"],
    occupancy: Float[Tensor, "b r r r"],
    cells: Tensor,
    latents: Float[Tensor, "n c"],
    encoder: LinearSLatEncoder,
) -> dict[str, Tensor]:
    """Return the terms of the loss of a guess; ``cells`` are (n, 4): item, x, y, z."""
    item, x, y, z = cells.T
    error = guess.latents[item, :, x, y, z] - latents
    bins = azimuth_bins(cameras[:, 0], guess.azimuth.shape[1])
    return {
        "azimuth": 0.5 * F.cross_entropy(guess.azimuth, bins),
        "camera": 4 * F.l1_loss(guess.camera, cameras[:, 1:]),
        "entropy": 2 * F.binary_cross_entropy_with_logits(guess.occupancy, occupancy),
        "dice": dice_loss(guess.occupancy, occupancy),
        "latent": 0.3 * error[:, :-COLORS].abs().mean(),
        "distance": 2 * encoder.in_values(error).abs().mean(),
        "color": 0.5 * error[:, -COLORS:].abs().mean(),
    }


def _order(generator: torch.Generator) -> Tensor:
    """Return an order of red, green and blue."""
    if float(torch.rand(1, generator=generator)) >= _SWAPPED:
        return torch.arange(3)
    return torch.randperm(3, generator=generator)
