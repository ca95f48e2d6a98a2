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
from geo3d.errors import InputError
from geo3d.segmentation.augment import augment, random_hue
from geo3d.segmentation.config import SegmentationConfig
from geo3d.segmentation.data import Sample
from geo3d.segmentation.predict import channel_statistics

Pair = tuple[Tensor, Tensor]


class TrainingImages(Dataset[Pair]):
    """Images and targets, ready for the network.

    Args:
        samples: images with masks.
        config: settings of the training.
        soft: probabilities of mortar (h, w) that take the place of the masks, or None.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        config: SegmentationConfig,
        soft: Sequence[Float[np.ndarray, "h w"]] | None = None,
    ) -> None:
        self.samples, self.config, self.soft = samples, config, soft
        self.statistics = [channel_statistics(sample.image) for sample in samples]
        self._order = lru_cache(maxsize=4)(self._draw_order)

    def __len__(self) -> int:
        return self.config.iterations * self.config.batch

    def __getitem__(self, number: int) -> Pair:
        epoch, place = divmod(number, len(self.samples))
        image, target = self._cut(self._order(epoch)[place], self._generator("cut", number))
        generator = self._generator("changes", number)
        image, target = augment(image, target, generator, self.config.augmentation)
        image = self._with_hue(image, self._generator("hue", number))
        if self.soft is None:
            return image, target[0].round().long()
        return image, torch.cat([1 - target, target])

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        return item_generator(self.config.seed, f"segmenter {purpose} {number}")

    def _draw_order(self, epoch: int) -> list[int]:
        generator = self._generator("order", epoch)
        return torch.randperm(len(self.samples), generator=generator).tolist()

    def _cut(self, index: int, generator: torch.Generator) -> Pair:
        """Return a normalised image and its target (1, h, w), cut at random."""
        sample, side = self.samples[index], self.config.crop
        box = (slice(None), slice(None))
        if side is not None:
            room = [n - side + 1 for n in sample.mask.shape]
            y, x = (int(torch.randint(n, (), generator=generator)) for n in room)
            box = (slice(y, y + side), slice(x, x + side))
        mean, deviation = self.statistics[index]
        image = ((sample.image[box] - mean) / deviation).transpose(2, 0, 1)
        target = sample.mask[box] if self.soft is None else self.soft[index][box]
        plain = np.ascontiguousarray(image, dtype=np.float32), target.astype(np.float32)[None]
        return torch.from_numpy(plain[0]), torch.from_numpy(plain[1])

    def _with_hue(
        self, image: Float[Tensor, "3 h w"], generator: torch.Generator
    ) -> Float[Tensor, "3 h w"]:
        if self.config.framework != "randhue":
            return image
        if float(torch.rand((), generator=generator)) >= self.config.hue_probability:
            return image
        return random_hue(image, generator, compat=self.config.compat)


def batches(
    images: TrainingImages, first_step: int, workers: int = 0
) -> Iterator[tuple[Float[Tensor, "b 3 h w"], Shaped[Tensor, "b ..."]]]:
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


def check_sizes(samples: Sequence[Sample], config: SegmentationConfig) -> None:
    """Refuse images that the settings cannot train on.

    Raises:
        InputError: ``segmenter.no_images``, ``segmenter.bad_size``, ``segmenter.no_mortar``.
    """
    if not samples:
        raise InputError("segmenter.no_images", "There are no images to train on.", "")
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
    if not any(sample.mask.any() for sample in samples):
        raise InputError(
            "segmenter.no_mortar",
            "No training image has a pixel of mortar.",
            "Labels hold 255 for mortar; look at one of them.",
        )


def _shown(shapes: set[tuple[int, ...]]) -> str:
    ordered = sorted(shapes)
    more = ", ..." if len(ordered) > 3 else ""
    return ", ".join(f"{w} x {h}" for h, w in ordered[:3]) + more
