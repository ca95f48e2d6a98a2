"""DINOv2's weights by the names of torch.hub and by those of transformers.

torch.hub leaves one file of weights (``dinov2_vitl14_reg4_pretrain.pth``); transformers reads a
folder of settings and weights.  Small to giant, with registers or without: the sizes are told from
the weights.  Names are those of the published folders, which every version of transformers reads.

Notation: c channels of a token, l blocks, p pixels per side of a patch.

Source: the layouts of facebookresearch/dinov2 and of transformers' Dinov2 models; Oquab et al.,
"DINOv2" (2023); Darcet et al., "Vision Transformers Need Registers" (2023).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from geo3d.checkpoints import Shaped, misfits

_CHANNELS_PER_HEAD = 64
_TOP = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_IN_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
}
_PARTS = ("query", "key", "value")
_LAYER = "encoder.layer"
# A release may number its blocks within chunks: blocks.CHUNK.BLOCK.
_BLOCK = re.compile(r"blocks\.(?:\d+\.)?(\d+)\.(.+)")
_NEWER = (
    *((f".attention.{part[0]}_proj.", f".attention.attention.{part}.") for part in _PARTS),
    (".attention.o_proj.", ".attention.output.dense."),
)
"""Names that newer versions of transformers give, and the published ones."""
_OPTIONAL = "embeddings.mask_token"
"""Used in training alone."""


def is_torchhub(names: Mapping[str, Any]) -> bool:
    """Return whether these are the names of a DINOv2 of torch.hub."""
    return {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= set(names)


def torchhub_to_transformers(
    weights: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights under their names in transformers, and the settings of the model."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        block = _BLOCK.fullmatch(name)
        if block is None:
            found[_renamed(name, _TOP)] = tensor
            continue
        layer, rest = f"{_LAYER}.{block[1]}", block[2]
        if rest.startswith("attn.qkv."):
            kind = rest.removeprefix("attn.qkv.")
            for part, third in zip(_PARTS, tensor.chunk(3), strict=True):
                found[f"{layer}.attention.attention.{part}.{kind}"] = third.contiguous()
        else:
            found[f"{layer}.{_renamed(rest, _IN_BLOCK)}"] = tensor
    return found, _settings(found)


def encoder_misfits(config: Mapping[str, Any], found: Mapping[str, Shaped]) -> list[str]:
    """Return how weights differ from those of a model with these settings, in words."""
    named = {_published(name): entry for name, entry in found.items()}
    wanted = _wanted(config, with_mask=_OPTIONAL in named)
    return misfits(wanted, named)


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def _published(name: str) -> str:
    for newer, older in _NEWER:
        name = name.replace(newer, older)
    return name


def _settings(found: Mapping[str, Tensor]) -> dict[str, Any]:
    places = found["embeddings.position_embeddings"]
    width, patch = places.shape[2], found["embeddings.patch_embeddings.projection.weight"].shape[2]
    registers = found.get("embeddings.register_tokens")
    layers = [int(n.split(".")[2]) for n in found if n.startswith(f"{_LAYER}.")]
    is_gated = f"{_LAYER}.0.mlp.weights_in.weight" in found
    inner = found.get(f"{_LAYER}.0.mlp.fc1.weight")
    kind = "dinov2" if registers is None else "dinov2_with_registers"
    settings = {
        "architectures": ["Dinov2Model" if registers is None else "Dinov2WithRegistersModel"],
        "model_type": kind,
        "hidden_size": width,
        "num_hidden_layers": 1 + max(layers, default=-1),
        "num_attention_heads": max(1, width // _CHANNELS_PER_HEAD),
        "mlp_ratio": 4 if inner is None else inner.shape[0] // width,
        "image_size": round((places.shape[1] - 1) ** 0.5) * patch,
        "patch_size": patch,
        "num_channels": 3,
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": is_gated,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    }
    return settings if registers is None else settings | {"num_register_tokens": registers.shape[1]}


def _wanted(config: Mapping[str, Any], with_mask: bool) -> dict[str, Tensor]:
    """Return the published names, with tensors of the right shape and without memory."""
    c, patch = int(config.get("hidden_size", 0)), int(config.get("patch_size", 14))
    side = int(config.get("image_size", 518)) // patch
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, c),
        "embeddings.position_embeddings": (1, side**2 + 1, c),
        "embeddings.patch_embeddings.projection.weight": (c, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (c,),
        "layernorm.weight": (c,),
        "layernorm.bias": (c,),
    }
    if with_mask:
        shapes[_OPTIONAL] = (1, c)
    if config.get("model_type") == "dinov2_with_registers":
        shapes["embeddings.register_tokens"] = (1, int(config.get("num_register_tokens", 4)), c)
    linear = {f"attention.attention.{part}": (c, c) for part in _PARTS}
    linear["attention.output.dense"] = (c, c)
    inner = int(c * config.get("mlp_ratio", 4))
    if config.get("use_swiglu_ffn"):
        inner = (int(inner * 2 / 3) + 7) // 8 * 8
        linear |= {"mlp.weights_in": (2 * inner, c), "mlp.weights_out": (c, inner)}
    else:
        linear |= {"mlp.fc1": (inner, c), "mlp.fc2": (c, inner)}
    for i in range(int(config.get("num_hidden_layers", 0))):
        layer = f"{_LAYER}.{i}"
        for name, shape in linear.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            shapes |= {f"{layer}.{name}.{kind}": (c,) for kind in ("weight", "bias")}
        shapes |= {f"{layer}.layer_scale{k}.lambda1": (c,) for k in (1, 2)}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
