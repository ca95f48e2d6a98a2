"""Tiny random folders of each family of teachers, as people have them on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WIDTH = 8
ALIKE = {"layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 2}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "sd15": {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1},
    "sd21": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "turbo": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
    "sdxl": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
}
FAMILIES = tuple(SCHEDULERS)


def unet(family: str, **changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    large: dict[str, Any] = {}
    if family == "sdxl":
        large = {
            "cross_attention_dim": 2 * WIDTH,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + WIDTH,
        }
    settings = {
        "sample_size": 4,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        **ALIKE,
        **large,
        **changes,
    }
    return UNet2DConditionModel(**settings)


def autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8,
    )


def controlnet(network: Any, channels: int = 3) -> Any:
    from diffusers import ControlNetModel

    made = ControlNetModel.from_unet(
        network,
        conditioning_channels=channels,
        conditioning_embedding_out_channels=(8, 8),
    )
    for block in (*made.controlnet_down_blocks, made.controlnet_mid_block):
        torch.nn.init.normal_(block.weight, std=0.5)
    torch.nn.init.normal_(made.controlnet_cond_embedding.conv_out.weight, std=0.5)
    return made


def write_text(folder: Path, is_second: bool = False) -> None:
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    name = "_2" if is_second else ""
    tokens = folder / f"tokenizer{name}"
    tokens.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{one}</w>" for one in letters)]
    (tokens / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tokens / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(tokens / "vocab.json"), str(tokens / "merges.txt"), model_max_length=6
    )
    tokenizer.save_pretrained(str(tokens))
    settings = CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        hidden_size=WIDTH,
        intermediate_size=8,
        num_attention_heads=2,
        num_hidden_layers=2,
        projection_dim=WIDTH,
        vocab_size=len(words),
        max_position_embeddings=6,
    )
    kind = CLIPTextModelWithProjection if is_second else CLIPTextModel
    kind(settings).save_pretrained(str(folder / f"text_encoder{name}"))


def write(folder: Path, family: str = "sd15", channels: int | None = 3, name: str = "") -> Path:
    """Write a pipeline, and beside it a ControlNet (FOLDER-NAME) of as many channels."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = unet(family)
        network.save_pretrained(str(folder / "unet"))
        autoencoder().save_pretrained(str(folder / "vae"))
        write_text(folder)
        if family == "sdxl":
            write_text(folder, is_second=True)
        (folder / "scheduler").mkdir()
        betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
        settings = json.dumps({**betas, **SCHEDULERS[family]})
        (folder / "scheduler" / "scheduler_config.json").write_text(settings)
        kind = "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline"
        (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
        if channels:
            place = folder.with_name(f"{folder.name}-{name or 'controlnet'}")
            controlnet(network, channels).save_pretrained(str(place))
    return folder


def rename_weights(folder: Path, variant: str = "fp16") -> None:
    """Call all weights below a folder as the hub's half-precision variants are called."""
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(f"{path.stem}.{variant}.safetensors"))


def as_cache(folder: Path, cache: Path, name: str = "models--org--sd") -> Path:
    """Lay a folder out as the hub's cache does; return the snapshot."""
    blobs, snapshot = cache / name / "blobs", cache / name / "snapshots" / "0123abc"
    blobs.mkdir(parents=True)
    (cache / name / "refs").mkdir()
    (cache / name / "refs" / "main").write_text("0123abc")
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        blob = blobs / f"{number:064x}"
        blob.write_bytes(path.read_bytes())
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (len(path.relative_to(folder).parts) + 1)
        link.symlink_to(f"{up}blobs/{blob.name}")
    return snapshot


__all__ = ["FAMILIES", "as_cache", "rename_weights", "unet", "write"]
