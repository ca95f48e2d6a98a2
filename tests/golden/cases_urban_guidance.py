"""Checks of the golden cases of street scenes that concern the teacher."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from geo3d.config import load_config
from scenes.urban.config import SceneConfig
from scenes.urban.guidance import Guidance
from scenes.urban.lgvsd import Draws, Views, distil, distil_latents
from scenes.urban.resample import ResampleConfig, resample_latents, resample_steps
from scenes.urban.teachers.folder import TeacherParts
from scenes.urban.tracker import Tracker

LORA = "lgrad:"
PUBLISHED = load_config(SceneConfig, preset="published")
"""What a user gets; a case changes what it names in its settings."""


def load_parts(folder: Path, name: str) -> tuple[TeacherParts, dict[str, Tensor]]:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    settings = json.loads((folder / f"{name}.json").read_text("utf-8"))
    tensors = {k: v.float() for k, v in load_file(folder / f"{name}.safetensors").items()}

    def own(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    unet = UNet2DConditionModel(**settings["unet"])
    unet.load_state_dict(own("unet."))
    channels = tensors["controlnet.controlnet_cond_embedding.conv_in.weight"].shape[1]
    control = ControlNetModel.from_unet(unet, conditioning_channels=channels)
    control.load_state_dict(own("controlnet."))
    vae = AutoencoderKL(**settings["vae"])
    vae.load_state_dict(own("vae."))
    scheduler = {"set_alpha_to_one": False, "steps_offset": 1, **settings["scheduler"]}
    return TeacherParts(unet, control, vae, scheduler, None), tensors


def load_released(tracker: Tracker, tensors: dict[str, Tensor]) -> None:
    """Take weights named as in the release: lora.LAYER.{down,up} and camera.linear_{1,2}.*."""
    own = {
        f"camera.{i}.{kind}": f"camera.linear_{n}.{kind}"
        for i, n in ((0, 1), (2, 2))
        for kind in ("weight", "bias")
    }
    for name in tracker.additions:
        for side in ("down", "up"):
            own[f"additions.{name}.{side}"] = f"lora.{name.replace('/', '.')}.{side}"
    tracker.load_state_dict({k: tensors[v].float() for k, v in own.items()})


def check_weights(path: Path) -> None:
    parts, tensors = load_parts(path.parent, path.stem)
    tracker = Tracker(parts.unet, torch.Generator(), rank=rank_of(tensors))
    load_released(tracker, tensors)
    used = {k for k in tensors if k.startswith(("lora.", "camera."))}
    assert len(used) == len(tracker.state_dict())


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], Guidance, dict[str, Tensor]]:
    with np.load(path) as file:
        cfg = json.loads(str(file["cfg"]))
        data = {k: torch.from_numpy(file[k]) for k in file.files if k != "cfg"}
    data = {k: v.float() if v.is_floating_point() else v for k, v in data.items()}
    parts, tensors = load_parts(path.parents[1] / "weights", cfg["weights"])
    return cfg, data, Guidance(parts), tensors


def rank_of(tensors: dict[str, Tensor]) -> int:
    """Return the rank of the tracker's additions."""
    return next(len(t) for name, t in tensors.items() if name.endswith(".down"))


def check_lgvsd(path: Path) -> None:
    cfg, data, guidance, tensors = _open(path)
    tracker = Tracker(
        guidance.unet, torch.Generator(), rank_of(tensors), prediction=cfg["lora_prediction"]
    )
    load_released(tracker, tensors)
    side = guidance.factor * data["noise_vsd"].shape[-1]
    views = Views(
        F.interpolate(data["cond8"], (side, side), mode="nearest"),
        data["text"][1:],
        data["text"][:1],
        data["camera"],
    )
    draws = Draws(
        torch.tensor([cfg["t_vsd"]]),
        data["noise_vsd"],
        torch.tensor([cfg["t_lora"]]),
        data["noise_lora"],
        torch.tensor([cfg["drop_camera"]]),
        data.get("vae_noise", data["noise_vsd"]),
    )
    config = replace(
        PUBLISHED.distil,
        guidance_scale=cfg["guidance_scale"],
        tracker_guidance_scale=cfg["guidance_scale_lora"],
        grad_clip=None if cfg["grad_clip"] is None else float(cfg["grad_clip"]),
        conditioning_scale=cfg["conditioning_scale"],
    )
    is_latent = cfg["mode"] == "latent"
    source = data["latents" if is_latent else "pred_rgb"].requires_grad_()
    act = distil_latents if is_latent else distil
    step = act(guidance, tracker, source, views, draws, config)
    step.loss.backward()
    assert abs(float(step.loss.detach()) / float(data["loss_vsd"]) - 1) < 1e-4
    assert abs(step.tracker_loss / float(data["loss_lora"]) - 1) < 1e-4
    assert source.grad is not None
    _close(source.grad, data["grad_src"], 1e-4, "grad_src")
    additions: Any = {k.replace("/", "."): part for k, part in tracker.additions.items()}
    expected = [k for k in data if k.startswith(LORA)]
    assert len(expected) == 2 * len(additions)
    for key in expected:
        name, _, side = key[len(LORA) :].rpartition(".")
        grad = getattr(additions[name], side).grad
        _close(grad, data[key], 1e-3, key)


def check_resample(path: Path) -> None:
    cfg, data, guidance, _ = _open(path)
    side = guidance.factor * data["noises"].shape[-1]
    condition = F.interpolate(data["cond8"], (side, side), mode="nearest")
    start = F.interpolate(data["start32"], (side, side), mode="bilinear")
    sampling = replace(
        PUBLISHED.sampling, steps=cfg["num_steps"], guidance_scale=cfg["guidance_scale"]
    )
    strength = cfg["resample_steps"] / cfg["num_steps"]
    config = ResampleConfig(sampling, strength, cfg["repeat"])
    assert resample_steps(guidance, config) == data["timesteps"].tolist()
    views = (condition, data["prompt_embeds"], data["negative_prompt_embeds"])
    with torch.no_grad():
        z = guidance.encode(start, data["vae_noise"])
    out = resample_latents(guidance, z, views, data["noises"], config)
    torch.testing.assert_close(out, data["latents_out"], atol=1e-4, rtol=0)


def _close(actual: Tensor, expected: Tensor, share: float, name: str) -> None:
    error, size = float((actual - expected).abs().max()), float(expected.abs().max())
    assert error <= share * size, f"{name}: {error} of {size}"
