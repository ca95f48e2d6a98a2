"""From a picture to an object, stage by stage: structure, latents, then mesh and Gaussians.

Every object has a seed of its own and noise of its own, drawn on the CPU in the published order
(structure, then latents).  A result therefore depends neither on the device that draws nor on the
objects made along with it.

Notation: b objects, c channels, r edge of the grid of structure latents, n voxels.

Source: Xiang et al., "Structured 3D Latents for Scalable and Versatile 3D Generation" (TRELLIS,
2024).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from geo3d.errors import ConfigError, InputError, NumericalError
from geo3d.progress import ProgressCallback, ignore_progress, report
from scenes.objects.condition import DinoEncoder, ImageEncoder
from scenes.objects.gaussians import Gaussians
from scenes.objects.image import prepare_image
from scenes.objects.models import load_model
from scenes.objects.pipeline_folder import (
    DECODERS,
    Output,
    encoder_path,
    is_own_encoder,
    read_pipeline,
    write_pipeline,
)
from scenes.objects.precision import default_torso, halved_copy, torso_dtype
from scenes.objects.radiance import RadianceField
from scenes.objects.samplers import SamplerConfig, sample
from scenes.objects.slat_mesh import ExtractedMesh
from scenes.objects.sparse import SparseTensor, join_items
from scenes.objects.ss_vae import active_voxels


@dataclass(frozen=True)
class GenerateConfig:
    """How objects are made."""

    structure: SamplerConfig | None = None
    """Sampling of the structure; None means as the pipeline says."""
    latent: SamplerConfig | None = None
    """Sampling of the latents; None means as the pipeline says."""
    outputs: tuple[Output, ...] = ("mesh", "gaussian")
    """What is decoded."""
    views: Literal["multidiffusion", "stochastic"] = "multidiffusion"
    """How several pictures of one object are used; see `scenes.objects.samplers.sample`."""
    batch: int | None = None
    """Objects that pass a network together; None means 1 on the CPU, all on an accelerator."""
    together: bool | None = None
    """Both branches of the guidance in one pass; None means on an accelerator, memory allowing."""
    on_empty: Literal["raise", "keep"] = "raise"
    """An object without a single voxel is an error, or is returned as such."""


@dataclass
class Generated:
    """One object."""

    seed: int
    """Its seed."""
    structure: Float[Tensor, "c r r r"]
    """Latents of the structure."""
    latent: SparseTensor | None = None
    """Latents on its voxels, denormalised; None if there is no voxel."""
    mesh: ExtractedMesh | None = None
    gaussian: Gaussians | None = None
    radiance: RadianceField | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the structure has no voxel."""
        return self.latent is None


@dataclass
class Batch:
    """Objects made together."""

    objects: list[Generated]
    """One per seed."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time per stage; that of loading networks is a stage of its own."""
    calls: dict[str, int] = field(default_factory=dict)
    """Passes through each flow network."""


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

    def encode(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "b l c"]:
        """Return the tokens of prepared pictures, on the CPU."""
        encoder = cast(
            ImageEncoder,
            self._encoder if hasattr(self._encoder, "encode") else cast(Any, self._encoder)(),
        )
        tokens = torch.cat([encoder.encode([picture]).cpu() for picture in pictures])
        if not self.low_memory:
            self._encoder = encoder
        return tokens

    def generate(
        self,
        pictures: Sequence[Image.Image],
        seeds: Sequence[int],
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (frozen)
        progress: ProgressCallback = ignore_progress,
        *,
        prepared: bool = False,
    ) -> Batch:
        """Make one object per seed.

        Args:
            pictures: one per seed, or one for all.
            seeds: of the noise.
            config: how.
            progress: hears of every step and may raise to cancel.
            prepared: the pictures are already as `prepare_image` returns them.

        Raises:
            InputError: ``generate.wrong_count`` and those of `prepare_image`.
            ConfigError: ``generate.no_network``, ``generate.bad_batch``.
            NumericalError: ``generate.empty_structure``.
        """
        if not seeds or len(pictures) not in (1, len(seeds)):
            raise InputError(
                "generate.wrong_count",
                f"{len(pictures)} pictures and {len(seeds)} seeds do not fit.",
                "Give one picture, or one per seed.",
            )
        tokens, seconds = self._tokens(pictures, prepared, progress)
        if len(tokens) != len(seeds):
            tokens = tokens.expand(len(seeds), -1, -1)
        return self._make([tokens], seeds, config, progress, seconds)

    def generate_from_views(
        self,
        pictures: Sequence[Image.Image],
        seed: int,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (frozen)
        progress: ProgressCallback = ignore_progress,
        *,
        prepared: bool = False,
    ) -> Batch:
        """Make one object from several pictures of it; errors as `generate`."""
        if not pictures:
            raise InputError("generate.wrong_count", "There is no picture.", "Give one or more.")
        tokens, seconds = self._tokens(pictures, prepared, progress)
        return self._make(list(tokens.split(1)), [seed], config, progress, seconds)

    def generate_from_tokens(
        self,
        tokens: Float[Tensor, "b l c"],
        seeds: Sequence[int],
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (frozen)
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
        self, pictures: Sequence[Image.Image], prepared: bool, progress: ProgressCallback
    ) -> tuple[Tensor, dict[str, float]]:
        report(progress, "picture", 0, 1)
        begun = time.perf_counter()
        ready = list(pictures) if prepared else [prepare_image(picture) for picture in pictures]
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
        job = _Job(self, conds, list(seeds), config, progress, seconds)
        structures = job.structures()
        voxels = job.voxels(structures)
        objects = [Generated(seed, z) for seed, z in zip(seeds, structures, strict=True)]
        full = [i for i, found in enumerate(voxels) if len(found)]
        if len(full) < len(objects) and config.on_empty == "raise":
            empty = [seed for seed, found in zip(seeds, voxels, strict=True) if not len(found)]
            raise _empty(empty)
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
) -> Pipeline:
    """Return the pipeline in ``folder``; networks are read when they are first needed.

    Args:
        folder: see `scenes.objects.pipeline_folder`.
        device: where it runs.
        encoder: folder of the image encoder, if it is not inside the pipeline's.
        torso: type of the weights of the networks' blocks; None chooses for the device.
        low_memory: keep one network at a time in memory.

    Raises:
        CheckpointError: as `read_pipeline`.
    """
    description = read_pipeline(folder)
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


@dataclass
class _Job:
    """Some objects on their way through the stages of a pipeline."""

    pipeline: Pipeline
    conds: list[Tensor]
    seeds: list[int]
    config: GenerateConfig
    progress: ProgressCallback
    seconds: dict[str, float]
    calls: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = self.pipeline.device
        # One stream per object: first the structure's noise, then that of its voxels.
        self.generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        if self.config.batch is not None and self.config.batch < 1:
            raise ConfigError(
                "generate.bad_batch", f"A batch has at least 1 object, not {self.config.batch}.", ""
            )

    def structures(self) -> list[Tensor]:
        """Return the latents of each object's structure."""
        found: list[Tensor] = []
        sampler = self.config.structure or self.pipeline.samplers[0]
        with self._network("sparse_structure_flow_model") as network:
            config = cast(Any, network).config
            shape = (config.in_channels, *[config.resolution] * 3)
            noise = [torch.randn(shape, generator=generator) for generator in self.generators]
            with self._timed("structure"):
                for rows in self._chunks(range(len(noise))):
                    x = torch.stack([noise[i] for i in rows]).to(self.device)
                    found += list(self._sample(network, x, rows, sampler, "structure").cpu())
        return found

    def voxels(self, structures: list[Tensor]) -> list[Tensor]:
        """Return each object's active voxels (0, x, y, z)."""
        found = []
        with (
            self._network("sparse_structure_decoder") as network,
            self._timed("voxels"),
            torch.no_grad(),
        ):
            for z in structures:
                report(self.progress, "voxels", len(found), len(structures))
                found.append(active_voxels(network(z[None].to(self.device)).float()).cpu())
        report(self.progress, "voxels", len(found), len(structures))
        return found

    def latents(self, full: list[int], voxels: list[Tensor]) -> list[SparseTensor]:
        """Return the latents of the objects ``full``, which have voxels."""
        found: list[SparseTensor] = []
        if not full:
            return found
        sampler = self.config.latent or self.pipeline.samplers[1]
        with self._network("slat_flow_model") as network, self._timed("latent"):
            channels = cast(Any, network).config.in_channels
            for rows in self._chunks(full):
                noise = []
                for i in rows:
                    feats = torch.randn((len(voxels[i]), channels), generator=self.generators[i])
                    noise.append(SparseTensor(feats, voxels[i], 1))
                x = join_items(noise).to(self.device)
                found += self._sample(network, x, rows, sampler, "latent").to("cpu").items()
        return [item * self.pipeline.std + self.pipeline.mean for item in found]

    def decoded(self, output: Output, objects: list[Generated]) -> list[Any]:
        """Return what one decoder makes of each object."""
        found: list[Any] = []
        if not objects:
            return found
        with (
            self._network(DECODERS[output]) as network,
            self._timed(output),
            torch.no_grad(),
        ):
            for item in objects:
                report(self.progress, output, len(found), len(objects))
                found += network(cast(SparseTensor, item.latent).to(self.device))
        report(self.progress, output, len(found), len(objects))
        return found

    def _sample(
        self, network: nn.Module, x: Any, rows: list[int], sampler: SamplerConfig, stage: str
    ) -> Any:
        conds = [cond[rows].to(self.device) for cond in self.conds]
        together = self.config.together
        sampled = sample(
            network,
            x,
            conds,
            sampler,
            images=self.config.views,
            together=self.device.type != "cpu" if together is None else together,
            progress=self.progress,
            stage=stage,
        )
        self.calls[stage] = self.calls.get(stage, 0) + sampled.calls
        return sampled.x

    def _chunks(self, items: Sequence[int]) -> Iterator[list[int]]:
        size = self.config.batch or (1 if self.device.type == "cpu" else len(items))
        for start in range(0, len(items), size):
            yield list(items[start : start + size])

    @contextmanager
    def _network(self, key: str) -> Iterator[nn.Module]:
        with ExitStack() as stack:
            with self._timed("loading"):
                network = stack.enter_context(self.pipeline.network(key))
            yield network

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun


def _empty(seeds: list[int]) -> NumericalError:
    return NumericalError(
        "generate.empty_structure",
        f"The structure has no voxel for seed {', '.join(map(str, seeds))}: there is no object.",
        "Try another seed, more steps, or a picture with the object larger and cut out cleanly.",
    )
