"""The published prior, read from what `geo3d convert` made of its pickle.

The pickle is a training snapshot of EDM: a mapping whose entry ``ema`` is a module (here a
preconditioning) with the transformer inside, so the weights are called ``ema.model.blocks.0...``.
The shape of the network follows from its tensors, the number of heads and the preconditioning from
the attributes stored beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from geo3d.checkpoints import Checkpoint
from geo3d.distill.preconditioning import EDM, IDDPM, Preconditioning
from geo3d.errors import CheckpointError, ConfigError
from shape_matching.prior.denoiser import DenoiserConfig

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
        "Give a file written by `geo3d train-prior`, or the converted published network.",
    )
