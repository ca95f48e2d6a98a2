"""The network: MONAI's DynUNet in two dimensions, as published or smaller.

A U-Net of levels; level i has filters[i] channels and half the resolution of the one above.  Each
block is two 3 x 3 convolutions with instance normalisation and leaky ReLU.  In training it gives
(b, heads, c, h, w): head 0 is the output, the others come from deeper levels, enlarged to full size
by repetition.  In evaluation it gives (b, c, h, w).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geo3d.checkpoints import require_fit
from geo3d.config import require

PUBLISHED_FILTERS = (32, 64, 128, 256, 512, 512, 512, 512)


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network."""

    filters: tuple[int, ...] = PUBLISHED_FILTERS
    """Channels of each level, the finest first."""
    deep_supervision: bool = True
    """Whether deeper levels are compared with the label too, in training."""

    def __post_init__(self) -> None:
        fits = len(self.filters) >= 3 and min(self.filters) >= 1
        require(fits, "filters", "at least 3 levels of at least 1 channel")

    @property
    def stride(self) -> int:
        """Sides of an image must be multiples of this, in pixels."""
        return 2 ** (len(self.filters) - 1)

    @property
    def smallest(self) -> int:
        """Smallest side in pixels: instance normalisation needs more than one pixel below."""
        return 2 * self.stride


def make_network(
    config: NetworkConfig, out_channels: int = 2, generator: torch.Generator | None = None
) -> nn.Module:
    """Return a new network.

    Args:
        config: its shape.
        out_channels: classes, or 1 for losses on a distance.
        generator: what the first weights follow from (Kaiming normal, slope 0.01).
    """
    from monai.networks.nets.dynunet import DynUNet

    levels = len(config.filters)
    network = DynUNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=out_channels,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(config.filters),
        deep_supervision=config.deep_supervision,
        deep_supr_num=levels - 2,
    )
    if generator is not None:
        initialise(network, generator)
    return network


def initialise(network: nn.Module, generator: torch.Generator, *, compat: bool = False) -> None:
    """Give all weights new random values.

    The first weights are Kaiming normal with slope 0.01.  The published code re-initialises later
    generations with each layer's default instead (``compat``).
    """
    # Layers draw their defaults from the global generator only; its state is put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.randint(2**62, (), generator=generator).item())
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.InstanceNorm2d):
                module.reset_parameters()
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and not compat:
                nn.init.kaiming_normal_(module.weight, a=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights by name, each once (DynUNet registers most layers under two names)."""
    return dict(network.named_parameters())


@torch.no_grad()
def load_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill a network with weights of `weights`.

    Raises:
        CheckpointError: ``checkpoint.wrong_weights``.
    """
    own = weights(network)
    require_fit(own, tensors, "the segmenter")
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
