"""The spectral prior: a denoiser of |C|, the entrywise absolute value of a functional map.

A prior says which maps are plausible: D(|C| + sigma n; sigma) is its estimate of |C|.  Signs are
dropped because eigenfunctions have none.

A prior file is safetensors, with the network's shape and preconditioning inside.  The published
network comes as a pickle; `geo3d convert --inert '*'` turns it into safetensors without running it,
and `load_prior` reads that file too.

The published prior, read from what `geo3d convert` made of its pickle.

The pickle is a training snapshot of EDM: a mapping whose entry ``ema`` is a module (here a
preconditioning) with the transformer inside, so the weights are called ``ema.model.blocks.0...``.
The shape of the network follows from its tensors, the number of heads and the preconditioning from
the attributes stored beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d import checkpoints
from geo3d.checkpoints import Checkpoint
from geo3d.config import config_from_dict, config_to_dict
from geo3d.distill.preconditioning import EDM, IDDPM, Preconditioning, denoise
from geo3d.errors import CheckpointError, ConfigError
from geo3d.files import asset
from shape_matching.prior.denoiser import Denoiser, DenoiserConfig

SHIPPED = "priors/creatures.safetensors"
"""The prior that comes with the package, trained on generated creatures only."""


@dataclass(frozen=True, eq=False)
class Prior:
    """A trained denoiser of absolute functional maps."""

    network: Denoiser
    preconditioning: Preconditioning
    info: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from: training settings, data, digest of its file."""

    @property
    def size(self) -> int:
        """Rows and columns of the maps it knows."""
        return self.network.config.size

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.network.pos_embed.device

    @torch.no_grad()
    def denoise(
        self, x: Float[Tensor, "*b k k"], sigma: float | Float[Tensor, " b"]
    ) -> Float[Tensor, "*b k k"]:
        """Return the estimates of the clean |C| in the noisy ``x``, without gradients.

        Args:
            x: (k, k), (b, k, k) or (b, 1, k, k), clean map plus noise; on any device.
            sigma: standard deviation of the noise, one for all or one per item; positive.

        Raises:
            ShapeError: ``denoiser.wrong_size``.
        """
        maps = x.reshape(-1, 1, *x.shape[-2:]).to(self.device, torch.float32)
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=self.device)
        clean = denoise(self.network, self.preconditioning, maps, levels.expand(len(maps)))
        return clean.reshape(x.shape).to(x)


def load_prior(path: str | PathLike[str] | None = None, device: str = "cpu") -> Prior:
    """Read a prior; None means the shipped one.  The last few are remembered.

    Raises:
        CheckpointError: ``checkpoint.missing``, ``checkpoint.damaged``, ``checkpoint.foreign``,
            ``prior.not_a_prior``.
        InputError: ``asset.missing`` when the shipped prior is not there.
    """
    file = asset(SHIPPED) if path is None else Path(path)
    # The time of writing is part of the key, so that a file written anew is read anew.
    written = file.stat().st_mtime_ns if file.is_file() else 0
    return _load(str(file), str(device), written)


def save_prior(
    path: str | PathLike[str],
    prior: Prior,
    info: Mapping[str, Any] | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> str:
    """Write ``prior`` to a ``.safetensors`` file and return its digest.

    Args:
        path: where to write.
        prior: what to write.
        info: numbers and texts to keep with it; default those of the prior.
        dtype: precision on disk; float16 halves the file.
    """
    weights = {n: t.to(getattr(torch, dtype)) for n, t in prior.network.state_dict().items()}
    config = {
        "prior": {
            "network": config_to_dict(prior.network.config),
            "preconditioning": _described(prior.preconditioning),
            "info": dict(prior.info if info is None else info),
        }
    }
    return checkpoints.save(path, weights, config)


@lru_cache(maxsize=4)
def _load(path: str, device: str, written: int) -> Prior:
    checkpoint = checkpoints.load(path)
    own = checkpoint.config.get("prior")
    if isinstance(own, Mapping):
        config, preconditioning, tensors = _own_parts(path, own, checkpoint.tensors)
        info = dict(own.get("info", {}))
    else:
        config, preconditioning, tensors = published_parts(path, checkpoint)
        info = {"imported": True}
    network = Denoiser(config)
    checkpoints.require_fit(network.state_dict(), tensors, path)
    network.load_state_dict(dict(tensors))
    network.requires_grad_(False).eval().to(device)
    return Prior(network, preconditioning, {**info, "sha256": checkpoint.sha256})


def _own_parts(
    path: str, own: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[DenoiserConfig, Preconditioning, Mapping[str, Tensor]]:
    try:
        values = dict(own["preconditioning"])
        kind = {"edm": EDM, "iddpm": IDDPM}[values.pop("kind")]
        return (
            config_from_dict(DenoiserConfig, own["network"]),
            config_from_dict(kind, values),
            {name: tensor.float() for name, tensor in tensors.items()},
        )
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "prior.not_a_prior", f"The settings inside {path} are not those of a prior.", ""
        ) from error


def _described(preconditioning: Preconditioning) -> dict[str, Any]:
    kind = {EDM: "edm", IDDPM: "iddpm"}[type(preconditioning)]
    return {"kind": kind, **config_to_dict(preconditioning)}


_MARK = "x_embedder.proj.weight"
_HEAD_WIDTH = 64
"""Channels per head of all published sizes, for files that do not tell the number of heads."""

Parts = tuple[DenoiserConfig, Preconditioning, dict[str, Tensor]]


def published_parts(path: str, checkpoint: Checkpoint) -> Parts:
    """Return the network's shape, its preconditioning and its weights by our names.

    Raises:
        CheckpointError: ``prior.not_a_prior``.
    """
    prefix = _find_prefix(path, checkpoint.tensors)
    tensors = {
        name.removeprefix(prefix): tensor.float()
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(prefix)
    }
    try:
        config = _network_shape(tensors, checkpoint.config, prefix)
    except (KeyError, IndexError, ZeroDivisionError, ConfigError) as error:
        raise _not_a_prior(path, f"its shape is not understood ({error})") from error
    above = prefix.removesuffix("model.")
    return config, _preconditioning(path, checkpoint, above), tensors


def _find_prefix(path: str, tensors: Mapping[str, Tensor]) -> str:
    """Return what stands before the names of the network; the averaged weights come first."""
    found = [name.removesuffix(_MARK) for name in tensors if name.endswith(_MARK)]
    averaged = [prefix for prefix in found if "ema" in prefix.split(".")]
    if not found:
        raise _not_a_prior(path, f"no tensor in it is called ...{_MARK}")
    if len(averaged or found) > 1:
        raise _not_a_prior(path, f"it holds several networks: {', '.join(sorted(found))}")
    return (averaged or found)[0]


def _network_shape(
    tensors: Mapping[str, Tensor], values: Mapping[str, Any], prefix: str
) -> DenoiserConfig:
    width, _, patch, _ = tensors[_MARK].shape
    heads = values.get(f"{prefix}blocks.0.attn.num_heads", max(1, width // _HEAD_WIDTH))
    return DenoiserConfig(
        size=math.isqrt(tensors["pos_embed"].shape[-2]) * patch,
        patch=patch,
        width=width,
        depth=len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
        heads=int(heads),
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] // width,
    )


def _preconditioning(path: str, checkpoint: Checkpoint, above: str) -> Preconditioning:
    if above + "u" in checkpoint.tensors:
        values = checkpoint.config
        return IDDPM(
            steps=len(checkpoint.tensors[above + "u"]) - 1,
            c1=float(values.get(above + "C_1", IDDPM.c1)),
            c2=float(values.get(above + "C_2", IDDPM.c2)),
        )
    sigma_data = checkpoint.config.get(above + "sigma_data")
    if isinstance(sigma_data, int | float):
        return EDM(float(sigma_data))
    raise _not_a_prior(path, "it tells no preconditioning (neither a table u nor sigma_data)")


def _not_a_prior(path: str, why: str) -> CheckpointError:
    return CheckpointError(
        "prior.not_a_prior",
        f"{path} holds no prior: {why}.",
        "Give a file written by `geo3d train prior`, or the converted published network.",
    )
