"""The network: MONAI's DynUNet in two or three dimensions, as published or smaller, or one's own.

A U-Net of levels; level i has filters[i] channels and half the resolution of the one above.  Each
block is two convolutions of 3 pixels a side with instance normalisation and leaky ReLU.  In
training it gives (b, heads, c, *space): head 0 is the output, the others come from deeper levels,
enlarged to full size by repetition.  In evaluation it gives (b, c, *space).

A network of one's own is made by a function with MONAI's three arguments, ``spatial_dims``,
``in_channels`` and ``out_channels``; it gives (b, c, *space), or heads as above in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from geo3d.checkpoints import require_fit
from geo3d.config import require, require_at_least
from geo3d.errors import ConfigError
from geo3d.segmentation import lite0
from geo3d.segmentation.own_code import own_function

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)
PUBLISHED_FILTERS = (32, 64, 128, 256, 512, 512, 512, 512)


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network."""

    filters: tuple[int, ...] = PUBLISHED_FILTERS
    """Channels of each level, the finest first."""
    deep_supervision: bool = True
    """Whether deeper levels are compared with the label too, in training."""
    own: str = ""
    """"package.module:function" that makes another network; `filters` then mean nothing."""
    own_stride: int = 32
    """Sides of an image that such a network takes are multiples of this, in pixels."""
    kind: Literal["unet", "lite0"] = "unet"
    """DynUNet, or a U-Net on an encoder that has seen ImageNet (`geo3d.segmentation.lite0`), of
    which `filters` say nothing."""
    enlarge: float = 1.0
    """How much larger an image of the one foreground class is made before it is segmented; thin
    joints gain by it.  Training does not enlarge."""
    begins_at: float = 0.0
    """Log odds of the network at which the foreground begins, chosen on validation images; the
    probability there is 1/2."""

    def __post_init__(self) -> None:
        fits = len(self.filters) >= 3 and min(self.filters) >= 1
        require(fits, "filters", "at least 3 levels of at least 1 channel")
        require_at_least(self, 1, "own_stride enlarge")
        require(self.enlarge == 1 or self.kind == "lite0", "enlarge", "1 but for lite0")

    @property
    def stride(self) -> int:
        """Sides of an image must be multiples of this, in pixels."""
        if self.own:
            return self.own_stride
        return lite0.STRIDE if self.kind == "lite0" else 2 ** (len(self.filters) - 1)

    @property
    def smallest(self) -> int:
        """Smallest side in pixels: instance normalisation needs more than one pixel below."""
        return 2 * self.stride


def make_network(
    config: NetworkConfig,
    out_channels: int = 2,
    generator: torch.Generator | None = None,
    *,
    in_channels: int = 3,
    dimensions: int = 2,
) -> nn.Module:
    """Return a new network.

    Args:
        config: its shape.
        out_channels: classes or regions, or 1 for losses on a distance.
        generator: what the first weights follow from (Kaiming normal, slope 0.01; of a network of
            one's own its own first weights).
        in_channels: of an image.
        dimensions: 2 for images, 3 for volumes.

    Raises:
        ConfigError: ``segmenter.own_network``, ``segmenter.colour_only``, and those of
            `own_function`.
        BackendUnavailable: ``backend.lite0_missing``, for a new network of the kind lite0.
    """
    if config.own:
        sizes = {"spatial_dims": dimensions, "in_channels": in_channels}
        return _own_network(config.own, {**sizes, "out_channels": out_channels}, generator)
    if config.kind == "lite0":
        return _on_lite0(in_channels, out_channels, dimensions, generator)
    from monai.networks.nets.dynunet import DynUNet

    levels = len(config.filters)
    network = DynUNet(
        spatial_dims=dimensions,
        in_channels=in_channels,
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


def _on_lite0(
    in_channels: int, out_channels: int, dimensions: int, generator: torch.Generator | None
) -> nn.Module:
    if (in_channels, dimensions) != (3, 2):
        raise ConfigError(
            "segmenter.colour_only",
            "The network lite0 takes colour images, and these are not.",
            "Set network.kind to unet.",
        )
    network = lite0.Lite0UNet(out_channels)
    if generator is not None:
        initialise(network, generator)
        network.encoder.load_state_dict(lite0.imagenet_weights())
    return network


def _own_network(
    name: str, sizes: Mapping[str, int], generator: torch.Generator | None
) -> nn.Module:
    function = own_function(name)
    try:
        with torch.random.fork_rng(devices=[]):
            if generator is not None:
                torch.manual_seed(torch.randint(2**62, (), generator=generator).item())
            network = function(**sizes)
    except Exception as error:
        given = ", ".join(f"{key}={value}" for key, value in sizes.items())
        raise ConfigError(
            "segmenter.own_network",
            f"{name}({given}) fails: {type(error).__name__}: {' '.join(str(error).split())}.",
            "It must make a network from these three arguments.",
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(
            "segmenter.own_network",
            f"{name} makes a {type(network).__name__}, not a torch.nn.Module.",
            "Name a class of modules, or a function that returns one.",
        )
    return network


def check_outputs(outputs: object, images: Tensor, channels: int) -> Tensor:
    """Return what a network of one's own gives, or say that it does not fit (code
    "segmenter.own_network")."""
    outputs = torch.stack(list(outputs), 1) if isinstance(outputs, list | tuple) else outputs
    space = tuple(images.shape[2:])
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    is_plain = shape == (len(images), channels, *space)
    has_heads = isinstance(shape, tuple) and (shape[:1], shape[2:]) == (
        (len(images),),
        (channels, *space),
    )
    if not isinstance(outputs, Tensor) or not (is_plain or has_heads):
        raise ConfigError(
            "segmenter.own_network",
            f"For images {tuple(images.shape)} the network gives {shape}.",
            f"It must give scores {(len(images), channels, *space)}, or (b, heads, c, *space).",
        )
    return outputs


def initialise(network: nn.Module, generator: torch.Generator, *, compat: bool = False) -> None:
    """Give all weights new random values.

    The first weights are Kaiming normal with slope 0.01.  The published code re-initialises later
    generations with each layer's default instead (``compat``).
    """
    # Layers draw their defaults from the global generator only; its state is put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.randint(2**62, (), generator=generator).item())
        for module in network.modules():
            if isinstance(module, (*_CONVOLUTIONS, nn.InstanceNorm2d, nn.InstanceNorm3d)):
                module.reset_parameters()
            if isinstance(module, _CONVOLUTIONS) and not compat:
                nn.init.kaiming_normal_(module.weight, a=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights by name, each once (DynUNet registers most layers under two names).

    Running statistics of normalisation, which a network of one's own may have, are among them.
    """
    buffers = {name: b for name, b in network.named_buffers() if b.is_floating_point()}
    return {**dict(network.named_parameters()), **buffers}


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
