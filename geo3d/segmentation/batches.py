"""Training images by number: number k is always the same cut, changed in the same way.

Number k is item k mod batch of step k div batch.  Images go in an order that is drawn anew each
time all have been seen.  All draws for k follow from (seed, k), so a training that stops goes on
exactly where it was, whatever the number of worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from geo3d.device import item_generator
from geo3d.errors import ConfigError, InputError
from geo3d.segmentation.augment import augment, random_hue
from geo3d.segmentation.config import SegmentationConfig
from geo3d.segmentation.kinds import WALLS, DataKind
from geo3d.segmentation.predict import channel_statistics, normalise
from geo3d.segmentation.samples import Sample
from geo3d.synth.wide_walls import widen

Pair = tuple[Tensor, Tensor]


class TrainingImages(Dataset[Pair]):
    """Images and targets, ready for the network.

    Args:
        samples: images with masks.
        config: settings of the training.
        soft: probabilities that take the place of the masks, (h, w) of the one class there is or
            (k, *space) of classes but the background, or of regions; None: the masks.
        kind: what the images are like.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        config: SegmentationConfig,
        soft: Sequence[Float[np.ndarray, "*any"]] | None = None,
        kind: DataKind = WALLS,
    ) -> None:
        self.samples, self.config, self.soft, self.kind = samples, config, soft, kind
        self.statistics = [channel_statistics(sample.image) for sample in samples]
        self._order = lru_cache(maxsize=4)(self._draw_order)

    def __len__(self) -> int:
        return self.config.iterations * self.config.batch

    def __getitem__(self, number: int) -> Pair:
        epoch, place = divmod(number, len(self.samples))
        index, generator = self._order(epoch)[place], self._generator("changes", number)
        if self.config.augmentation == "wide":
            image, target = self._view(index, generator)
        else:
            image, target = self._cut(index, self._generator("cut", number))
            image, target = augment(image, target, generator, self.config.augmentation)
        image = self._with_hue(image, self._generator("hue", number))
        if self.soft is None:
            return image, target[0].round().long()
        if self.kind.regions:
            return image, target
        return image, torch.cat([1 - target.sum(dim=0, keepdim=True), target])

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        return item_generator(self.config.seed, f"segmenter {purpose} {number}")

    def _draw_order(self, epoch: int) -> list[int]:
        generator = self._generator("order", epoch)
        return torch.randperm(len(self.samples), generator=generator).tolist()

    def _cut(self, index: int, generator: torch.Generator) -> Pair:
        """Return a normalised image and its target (k, *space), cut at random."""
        sample, side = self.samples[index], self.config.crop
        box = (slice(None),) * sample.mask.ndim
        if side is not None:
            room = [n - side + 1 for n in sample.mask.shape]
            corner = [int(torch.randint(n, (), generator=generator)) for n in room]
            box = tuple(slice(at, at + side) for at in corner)
        mean, deviation = self.statistics[index]
        image = np.moveaxis((sample.image[box] - mean) / deviation, -1, 0)
        target = sample.mask[box] if self.soft is None else self.soft[index][(..., *box)]
        target = target.astype(np.float32)
        target = target[None] if target.ndim == len(box) else target
        return torch.from_numpy(np.ascontiguousarray(image, np.float32)), torch.from_numpy(target)

    def _view(self, index: int, generator: torch.Generator) -> Pair:
        """Return a strange view, normalised by itself: it has little in common with its image."""
        sample, side = self.samples[index], self.config.crop or 0
        seed = torch.randint(2**62, (), generator=generator).item()
        image, mask = widen(sample.image, sample.mask, np.random.default_rng(int(seed)), side)
        return torch.from_numpy(normalise(image)), torch.from_numpy(mask)[None].float()

    def _with_hue(
        self, image: Float[Tensor, " c *space"], generator: torch.Generator
    ) -> Float[Tensor, " c *space"]:
        if self.config.framework != "randhue":
            return image
        if float(torch.rand((), generator=generator)) >= self.config.hue_probability:
            return image
        return random_hue(image, generator, compat=self.config.compat)


def batches(
    images: TrainingImages, first_step: int, workers: int = 0
) -> Iterator[tuple[Float[Tensor, "b c *space"], Shaped[Tensor, "b ..."]]]:
    """Yield the batch of every step from ``first_step`` to the last.

    Args:
        images: what to take them from.
        first_step: number of the first step, from 0.
        workers: processes that prepare batches ahead; 0 prepares them here.
    """
    batch = images.config.batch
    loader = DataLoader(
        images,
        batch_size=batch,
        sampler=range(first_step * batch, len(images)),
        num_workers=workers,
        # Given, so that the loader leaves the global generator alone.
        generator=torch.Generator(),
    )
    yield from loader


def check_sizes(
    samples: Sequence[Sample], config: SegmentationConfig, kind: DataKind = WALLS
) -> None:
    """Refuse images that the settings cannot train on.

    Raises:
        InputError: ``segmenter.no_images``, ``segmenter.bad_size``, ``segmenter.no_mortar``,
            ``segmenter.no_foreground``.
        ConfigError: ``segmenter.no_colour`` for the framework randhue.
    """
    if not samples:
        raise InputError("segmenter.no_images", "There are no images to train on.", "")
    if config.framework == "randhue" and (kind.channels, kind.dimensions) != (3, 2):
        raise ConfigError(
            "segmenter.no_colour",
            "The framework randhue changes colours, and these are no colour images.",
            "Choose supervised or selfdistillation.",
        )
    if config.augmentation == "wide" and kind != WALLS:
        raise ConfigError(
            "segmenter.no_walls",
            "The changes called wide are for walls, and these are other images.",
            "Set augmentation to published.",
        )
    shapes = {sample.mask.shape for sample in samples}
    sides = [side for shape in shapes for side in shape]
    stride, smallest = config.network.stride, config.network.smallest
    if config.crop is None:
        fits = len(shapes) == 1 and all(n % stride == 0 and n >= smallest for n in sides)
        wanted = f"one size, in multiples of {stride} from {smallest}, or set crop"
    else:
        fits, wanted = min(sides) >= config.crop, f"at least {config.crop} pixels on each side"
    if not fits:
        raise InputError(
            "segmenter.bad_size",
            f"Images of {_shown(shapes)} cannot be trained on.",
            f"Give images of {wanted}.",
        )
    if any(mask.any() for sample in samples for mask in kind.masks(sample.mask).values()):
        return
    if kind == WALLS:
        raise InputError(
            "segmenter.no_mortar",
            "No training image has a pixel of mortar.",
            "Labels hold 255 for mortar; look at one of them.",
        )
    raise InputError(
        "segmenter.no_foreground",
        f"No training image has a pixel of {' or '.join(kind.foreground)}.",
        "Look at the labels, and at the split.",
    )


def _shown(shapes: set[tuple[int, ...]]) -> str:
    ordered = sorted(shapes)
    more = ", ..." if len(ordered) > 3 else ""
    return ", ".join(" x ".join(map(str, reversed(shape))) for shape in ordered[:3]) + more
