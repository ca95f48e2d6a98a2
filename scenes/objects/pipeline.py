"""From an image to an object, by networks in memory or in a published folder.

Every object has a seed of its own and noise of its own, drawn on the CPU in the published order
(structure, then latents).  A result therefore depends neither on the device that draws nor on the
objects made along with it.

Notation: b objects, l tokens of an image, c channels.

Source: Xiang et al., "Structured 3D Latents for Scalable and Versatile 3D Generation" (TRELLIS,
2024).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from geo3d.errors import ConfigError, InputError
from geo3d.progress import ProgressCallback, ignore_progress, report
from scenes.objects.condition import DinoEncoder, ImageEncoder
from scenes.objects.image import prepare_image
from scenes.objects.models import load_model
from scenes.objects.pipeline_folder import (
    Variant,
    encoder_path,
    is_own_encoder,
    read_pipeline,
    write_pipeline,
)
from scenes.objects.precision import default_torso, halved_copy, torso_dtype
from scenes.objects.samplers import SamplerConfig
from scenes.objects.stages import Batch, GenerateConfig, Generated, Job, empty_structure

__all__ = [
    "Batch",
    "GenerateConfig",
    "Generated",
    "Pipeline",
    "empty_structure",
    "load_pipeline",
]


class Pipeline:
    """The networks of a pipeline and how they are used; made by `load_pipeline` or by hand.

    Args:
        networks: a network or a path without suffix per key (`pipeline_folder.ALWAYS`,
            `pipeline_folder.DECODERS`).
        encoder: the image encoder, or a function that loads it.
        samplers: of the structure and of the latents.
        normalization: mean and std of the latents per channel.
        device: where the networks run.
        torso: type of the weights of the networks' blocks; None chooses for the device.
        low_memory: keep one network at a time on the device.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module | Path],
        encoder: ImageEncoder | Callable[[], ImageEncoder],
        samplers: tuple[SamplerConfig, SamplerConfig],
        normalization: tuple[Sequence[float], Sequence[float]],
        *,
        device: torch.device | str = "cpu",
        torso: torch.dtype | None = None,
        low_memory: bool = False,
    ) -> None:
        self.networks = dict(networks)
        self.device = torch.device(device)
        self.torso = default_torso(self.device) if torso is None else torso
        self.samplers = samplers
        self.mean = torch.tensor(normalization[0])[None]
        self.std = torch.tensor(normalization[1])[None]
        self.low_memory = low_memory
        self._encoder = encoder
        self._kept: dict[str, nn.Module] = {}

    @property
    def kept(self) -> list[str]:
        """Keys of the networks that are loaded."""
        return list(self._kept)

    def encode(self, images: Sequence[Image.Image]) -> Float[Tensor, "b l c"]:
        """Return the tokens of prepared images, on the CPU."""
        encoder = cast(
            ImageEncoder,
            self._encoder if hasattr(self._encoder, "encode") else cast(Any, self._encoder)(),
        )
        tokens = torch.cat([encoder.encode([image]).cpu() for image in images])
        if not self.low_memory:
            self._encoder = encoder
        return tokens

    def generate(
        self,
        images: Sequence[Image.Image],
        seeds: Sequence[int],
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        progress: ProgressCallback = ignore_progress,
        *,
        prepared: bool = False,
    ) -> Batch:
        """Make one object per seed.

        Args:
            images: one per seed, or one for all.
            seeds: of the noise.
            config: how.
            progress: hears of every step and may raise to cancel.
            prepared: the images are already as `prepare_image` returns them.

        Raises:
            InputError: ``generate.wrong_count`` and those of `prepare_image`.
            ConfigError: ``generate.no_network``, ``config.bad_value``.
            NumericalError: ``generate.empty_structure``.
        """
        if not seeds or len(images) not in (1, len(seeds)):
            raise InputError(
                "generate.wrong_count",
                f"{len(images)} images and {len(seeds)} seeds do not fit.",
                "Give one image, or one per seed.",
            )
        tokens, seconds = self._tokens(images, prepared, progress)
        if len(tokens) != len(seeds):
            tokens = tokens.expand(len(seeds), -1, -1)
        return self._make([tokens], seeds, config, progress, seconds)

    def generate_from_views(
        self,
        images: Sequence[Image.Image],
        seed: int,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        progress: ProgressCallback = ignore_progress,
        *,
        prepared: bool = False,
    ) -> Batch:
        """Make one object from several images of it; errors as `generate`."""
        if not images:
            raise InputError("generate.wrong_count", "There is no image.", "Give one or more.")
        tokens, seconds = self._tokens(images, prepared, progress)
        return self._make(list(tokens.split(1)), [seed], config, progress, seconds)

    def generate_from_tokens(
        self,
        tokens: Float[Tensor, "b l c"],
        seeds: Sequence[int],
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        progress: ProgressCallback = ignore_progress,
    ) -> Batch:
        """Make one object per row of tokens and seed; errors as `generate`."""
        if not seeds or len(tokens) != len(seeds):
            raise InputError(
                "generate.wrong_count",
                f"{len(tokens)} rows of tokens and {len(seeds)} seeds do not fit.",
                "Give as many.",
            )
        return self._make([tokens], seeds, config, progress, {})

    def save(self, folder: str | Path, encoder: str | nn.Module | None = None) -> Path:
        """Write the pipeline to a folder that `load_pipeline` reads.

        Args:
            folder: where.
            encoder: name of a published encoder; None stores the pipeline's own network.

        Raises:
            ConfigError: ``pipeline.foreign_encoder`` (the encoder is no network of ours).
        """
        if encoder is None and not isinstance(self._encoder, nn.Module):
            raise ConfigError(
                "pipeline.foreign_encoder",
                "The image encoder is not stored with a pipeline.",
                "Name it: save(folder, encoder='dinov2_vitl14_reg').",
            )
        networks = {
            key: load_model(value) if isinstance(value, Path) else value
            for key, value in self.networks.items()
        }
        normalization = (self.mean[0].tolist(), self.std[0].tolist())
        chosen = cast(nn.Module, self._encoder) if encoder is None else encoder
        return write_pipeline(folder, networks, self.samplers, normalization, chosen)

    def _tokens(
        self, images: Sequence[Image.Image], prepared: bool, progress: ProgressCallback
    ) -> tuple[Tensor, dict[str, float]]:
        report(progress, "picture", 0, 1)
        begun = time.perf_counter()
        ready = list(images) if prepared else [prepare_image(image) for image in images]
        tokens = self.encode(ready)
        report(progress, "picture", 1, 1)
        return tokens, {"picture": time.perf_counter() - begun}

    def _make(
        self,
        conds: list[Tensor],
        seeds: Sequence[int],
        config: GenerateConfig,
        progress: ProgressCallback,
        seconds: dict[str, float],
    ) -> Batch:
        job = Job(self, conds, list(seeds), config, progress, seconds)
        structures = job.structures()
        voxels = job.voxels(structures)
        objects = [Generated(seed, z) for seed, z in zip(seeds, structures, strict=True)]
        full = [i for i, found in enumerate(voxels) if len(found)]
        if len(full) < len(objects) and config.on_empty == "raise":
            empty = [seed for seed, found in zip(seeds, voxels, strict=True) if not len(found)]
            raise empty_structure(empty)
        for i, latent in zip(full, job.latents(full, voxels), strict=True):
            objects[i].latent = latent
        for output in config.outputs:
            for i, made in zip(full, job.decoded(output, [objects[i] for i in full]), strict=True):
                setattr(objects[i], output, made)
        return Batch(objects, job.seconds, job.calls)

    @contextmanager
    def network(self, key: str) -> Iterator[nn.Module]:
        """Yield a network on the device; in low-memory mode it leaves with the block.

        Raises:
            ConfigError: ``generate.no_network``.
        """
        if key not in self.networks:
            raise ConfigError(
                "generate.no_network",
                f"This pipeline has no {key}.",
                f"It has {', '.join(self.networks)}; ask for outputs that these can make.",
            )
        stored = self.networks[key]
        if isinstance(stored, Path):
            network = self._kept.get(key) or load_model(stored, self.device, self.torso)
        elif torso_dtype(stored) == self.torso:
            network = stored.to(self.device)
        else:
            network = self._kept.get(key) or halved_copy(stored, self.torso).to(self.device)
        if not self.low_memory:
            self._kept[key] = network
        try:
            yield network
        finally:
            if self.low_memory and self.device.type != "cpu":
                # Frees the memory at once, whoever still holds the network.
                network.to("cpu" if network is stored else "meta")
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()


def load_pipeline(
    folder: str | Path,
    device: torch.device | str = "cpu",
    *,
    encoder: str | Path | None = None,
    torso: torch.dtype | None = None,
    low_memory: bool = False,
    variant: Variant = "pipeline",
) -> Pipeline:
    """Return the pipeline in ``folder``; networks are read when they are first needed.

    Args:
        folder: see `scenes.objects.pipeline_folder`.
        device: where it runs.
        encoder: folder of the image encoder, if it is not inside the pipeline's.
        torso: type of the weights of the networks' blocks; None chooses for the device.
        low_memory: keep one network at a time in memory.
        variant: the pipeline itself, or its few-step students.

    Raises:
        CheckpointError: as `read_pipeline`.
    """
    description = read_pipeline(folder, variant)
    path = encoder_path(folder, description, encoder)

    def load_encoder() -> ImageEncoder:
        if is_own_encoder(path):
            return cast(ImageEncoder, load_model(path, device))
        return DinoEncoder(path, device)

    return Pipeline(
        description.models,
        load_encoder,
        (description.structure, description.latent),
        (description.mean, description.std),
        device=device,
        torso=torso,
        low_memory=low_memory,
    )
