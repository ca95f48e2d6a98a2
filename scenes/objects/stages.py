"""The stages every object passes: structure, voxels, latents, then what is decoded from them.

A stage takes all objects before the next begins, so that one network at a time needs to be loaded.

Notation: b objects, c channels, r edge of the grid of structure latents, n voxels.

Source: Xiang et al., "Structured 3D Latents for Scalable and Versatile 3D Generation" (TRELLIS,
2024).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.config import require
from geo3d.errors import NumericalError
from geo3d.progress import ProgressCallback, report
from scenes.objects.gaussians import Gaussians
from scenes.objects.pipeline_folder import DECODERS, Output
from scenes.objects.radiance import RadianceField
from scenes.objects.samplers import Conditions, SamplerConfig, sample
from scenes.objects.slat_mesh import ExtractedMesh
from scenes.objects.sparse import SparseTensor, join_items
from scenes.objects.ss_vae import active_voxels
from scenes.objects.whole import closed_shell


class Networks(Protocol):
    """What the stages need of a pipeline."""

    device: torch.device
    samplers: tuple[SamplerConfig, SamplerConfig]
    """Of the structure and of the latents."""
    mean: Tensor
    std: Tensor
    """Of the latents, per channel."""

    def network(self, key: str) -> AbstractContextManager[nn.Module]:
        """Yield a network on the device."""
        ...


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
    """How several images of one object are used; see `scenes.objects.samplers.sample`."""
    batch: int | None = None
    """Objects that pass a network together; None means 1 on the CPU, all on an accelerator."""
    together: bool | None = None
    """Both branches of the guidance in one pass; None means on an accelerator, memory allowing."""
    whole: bool = True
    """The structure's gaps are closed and meshes have no open edges and no inner walls
    (`scenes.objects.whole`); False: as published."""
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


@dataclass
class Job:
    """Some objects on their way through the stages of a pipeline."""

    pipeline: Networks
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
        require(self.config.batch is None or self.config.batch >= 1, "batch", "at least 1")

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
                logits = network(z[None].to(self.device)).float()
                voxels = active_voxels(logits).cpu()
                if self.config.whole and len(voxels):
                    cells = closed_shell(voxels[:, 1:].numpy(), logits.shape[-1])
                    voxels = F.pad(torch.from_numpy(cells).int(), (1, 0))
                found.append(voxels)
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
        whole = output == "mesh" and self.config.whole
        with (
            self._network(DECODERS[output]) as network,
            self._timed(output),
            torch.no_grad(),
        ):
            for item in objects:
                report(self.progress, output, len(found), len(objects))
                latent = cast(SparseTensor, item.latent).to(self.device)
                found += network(latent, whole=True) if whole else network(latent)
        report(self.progress, output, len(found), len(objects))
        return found

    def _sample(
        self, network: nn.Module, x: Any, rows: list[int], sampler: SamplerConfig, stage: str
    ) -> Any:
        conds = [cond[rows].to(self.device) for cond in self.conds]
        together = self.config.together

        def renew() -> Any:
            if not isinstance(x, SparseTensor):
                fresh = [torch.randn(x.shape[1:], generator=self.generators[i]) for i in rows]
                return torch.stack(fresh).to(self.device)
            sizes = [(count, *x.feats.shape[1:]) for count in x.grid.counts]
            fresh = [
                torch.randn(size, generator=self.generators[i])
                for i, size in zip(rows, sizes, strict=True)
            ]
            return x.replace(torch.cat(fresh).to(self.device))

        sampled = sample(
            network,
            x,
            Conditions(conds, views=self.config.views),
            sampler,
            together=self.device.type != "cpu" if together is None else together,
            renew=renew,
            progress=lambda event: self.progress({**event, "stage": stage}),
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


def empty_structure(seeds: Sequence[int]) -> NumericalError:
    """Return the error for seeds whose structure has no voxel."""
    return NumericalError(
        "generate.empty_structure",
        f"The structure has no voxel for seed {', '.join(map(str, seeds))}: there is no object.",
        "Try another seed, more steps, or an image with the object larger and cut out cleanly.",
    )
