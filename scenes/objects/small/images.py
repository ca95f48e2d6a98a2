"""The image encoder of the small pipeline: its tokens learn to tell what the latents are.

A reader with one query per structure cell guesses from the tokens the structure's latent there, and
whether and with what mean latents there are cells.  The reader is dropped; the tokens condition the
flows and are not trained with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scenes.objects.condition import SmallImageEncoder
from scenes.objects.decoders import SLatEncoder
from scenes.objects.small.autoencoders import cell_features
from scenes.objects.small.cells import COARSE, CellObject
from scenes.objects.small.settings import IMAGE_ENCODER, STRUCTURE_EDGE, STRUCTURE_FLOW
from scenes.objects.ss_flow import SparseStructureFlowModel
from scenes.objects.ss_vae import SparseStructureEncoder

_CHANNELS = 8
_BLOCK = COARSE // STRUCTURE_EDGE
_READER = replace(
    STRUCTURE_FLOW, model_channels=128, num_heads=4, num_blocks=3, out_channels=2 * _CHANNELS + 1
)


class ImageTask:
    """Images to tokens that tell the latents."""

    def __init__(
        self,
        objects: Sequence[CellObject],
        structure: SparseStructureEncoder,
        latent: SLatEncoder,
    ) -> None:
        self.objects, self.names = list(objects), [item.name for item in objects]
        self.targets = torch.stack([_target(item, structure, latent) for item in objects])
        known = self.targets[:, -1:] > 0
        self.mean, self.std = _moments(self.targets[:, :-1], known)
        self.encoder = SmallImageEncoder(IMAGE_ENCODER)
        self.reader = SparseStructureFlowModel(_READER)
        self.network = nn.ModuleDict({"encoder": self.encoder, "reader": self.reader})

    def loss(self, items: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the errors of the structure's latents, of presence, and of mean latents."""
        images = torch.stack([self._image(i, generator) for i in items])
        tokens = self.encoder(images)
        nothing = tokens.new_zeros((len(items), _CHANNELS, *[STRUCTURE_EDGE] * 3))
        read = self.reader(nothing, tokens.new_zeros(len(items)), tokens)
        truth = self.targets[items]
        known = truth[:, -1:]
        error = (read[:, :-1] - (truth[:, :-1] - self.mean) / self.std).square()
        inside = (error[:, _CHANNELS:] * known).sum() / (known.sum() * _CHANNELS).clamp(min=1)
        presence = F.binary_cross_entropy_with_logits(read[:, -1:], known)
        return {"structure": error[:, :_CHANNELS].mean(), "presence": presence, "latent": inside}

    def _image(self, item: int, generator: torch.Generator) -> Float[Tensor, "3 p p"]:
        """Return one view, a little brighter or darker than it is."""
        views = self.objects[item].views
        view = int(torch.randint(len(views), (1,), generator=generator))
        light = 0.85 + 0.3 * float(torch.rand(1, generator=generator))
        pixels = torch.from_numpy(views[view]).float().movedim(-1, 0) / 255
        return (pixels * light).clamp(max=1)


@torch.no_grad()
def _target(
    item: CellObject, structure: SparseStructureEncoder, latent: SLatEncoder
) -> Float[Tensor, "c 4 4 4"]:
    """Return the structure's latents, the mean latents of the cells in each block, and presence."""
    grid = torch.from_numpy(item.occupancy())[None, None].float()
    z = structure(grid).mean[0]
    feats = latent(cell_features([item])).feats
    blocks = torch.from_numpy(item.coords.astype(np.int64)) // _BLOCK
    number = (blocks[:, 0] * STRUCTURE_EDGE + blocks[:, 1]) * STRUCTURE_EDGE + blocks[:, 2]
    count = torch.bincount(number, minlength=STRUCTURE_EDGE**3)
    total = feats.new_zeros(STRUCTURE_EDGE**3, feats.shape[1]).index_add(0, number, feats)
    means = (total / count.clamp(min=1)[:, None]).T.unflatten(1, (STRUCTURE_EDGE,) * 3)
    known = (count > 0).float().reshape(1, *[STRUCTURE_EDGE] * 3)
    return torch.cat([z, means, known])


def _moments(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, of mean latents where there are any."""
    structure, means = values[:, :_CHANNELS], values[:, _CHANNELS:]
    rows = means.movedim(1, -1)[known[:, 0]]
    mean = torch.cat([structure.mean((0, 2, 3, 4)), rows.mean(0)])
    std = torch.cat([structure.std((0, 2, 3, 4)), rows.std(0)]).clamp(min=1e-4)
    return mean[:, None, None, None], std[:, None, None, None]
