"""Golden cases of the learned prior: network, preconditionings, losses, training schedule."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from golden.reading import denoiser_beside, denoiser_config
from safetensors.torch import load_file
from torch import Tensor

from geo3d.distill.levels import LevelDistribution, vp_sigma
from geo3d.distill.preconditioning import (
    EDM,
    IDDPM,
    VE,
    Preconditioning,
    denoise,
    denoising_loss,
)
from shape_matching.prior.denoiser import Denoiser, DenoiserConfig, sinusoids
from shape_matching.prior.training import PriorTrainingConfig, ema_beta, learning_rate


def check_weights(path: Path) -> None:
    """Names and shapes of the small network are ours; so is its fixed position table."""
    expected = load_file(path)
    network = Denoiser(denoiser_config({n: t.shape for n, t in expected.items()}))
    assert {n: t.shape for n, t in network.state_dict().items()} == {
        n: t.shape for n, t in expected.items()
    }
    torch.testing.assert_close(network.pos_embed.data, expected["pos_embed"], rtol=0, atol=1e-7)


@torch.no_grad()
def check_forward(path: Path) -> None:
    """Compare the stages of the network, its output, and the denoisers made of it."""
    case = _tensors(path)
    x, t = case["x"], case["t"]
    network = denoiser_beside(path, x.shape[-1])
    _close(sinusoids(t, case["t_freq"].shape[1]), case["t_freq"])
    _close(network.t_embedder(t), case["t_embed"])
    _close(network.x_embedder(x), case["patch_tokens"])
    _close(network.pos_embed, case["pos_embed"])
    _close(network(x, t), case["out"])
    iddpm = IDDPM(steps=len(case["iddpm_u"]) - 1)
    _close(iddpm.levels(), case["iddpm_u"])
    assert torch.equal(iddpm.nearest_level(case["sigma"]), case["iddpm_index"])
    expected: dict[str, tuple[Preconditioning, Tensor]] = {
        "D_iddpm": (iddpm, case["sigma"]),
        "D_edm": (EDM(0.5), case["sigma_edm"]),
        "D_ve": (VE(), case["sigma_edm"]),
    }
    for name in case:
        if told := re.fullmatch(r"D_iddpm_sigma(\d+)p(\d+)_broadcast", name):
            expected[name] = (iddpm, torch.full((len(x),), float(".".join(told.groups()))))
    for name, (preconditioning, sigma) in expected.items():
        found = denoise(network, preconditioning, x, sigma)
        torch.testing.assert_close(
            found, case[name], rtol=0, atol=1e-5 * float(case[name].abs().max()), msg=name
        )


def check_layout(path: Path) -> None:
    """Compare names, shapes and sizes of a published network; one of them is our default."""
    case = np.load(path)
    told = (name.partition(" ") for name in case["names"].tolist())
    config = denoiser_config({name: json.loads(_as_list(shape)) for name, _, shape in told})
    network = Denoiser(config)
    if config.depth == DenoiserConfig().depth:
        assert replace(config, heads=DenoiserConfig().heads) == DenoiserConfig()
    found = [(f"{n} {tuple(p.shape)}", p) for n, p in network.named_parameters()]
    assert [name for name, _ in found] == list(case["names"])
    assert sum(p.numel() for _, p in found) == case["n_params"]
    assert sum(p.numel() for _, p in found if p.requires_grad) == case["n_trainable"]


def check_losses(path: Path) -> None:
    """Compare both losses entry by entry, their noise levels and their gradients."""
    case = _tensors(path)
    _close(vp_sigma(case["vp_t"]), case["vp_sigma_of_t"])
    # The weight is 1 / deviation^2 + 1 / sigma^2 with the deviation of the data.
    inverse = case["edm_weight"].double() - case["edm_sigma"].double() ** -2
    deviation = round(float(inverse.median() ** -0.5), 3)
    for kind, preconditioning in (("vp", IDDPM()), ("edm", EDM(deviation))):
        network = denoiser_beside(path, case["x"].shape[-1])
        levels = LevelDistribution("vp" if kind == "vp" else "edm", sigma_data=deviation)
        sigma = case[f"{kind}_sigma"].flatten()
        _close(levels.weight(sigma), case[f"{kind}_weight"].flatten())
        clean = partial(denoise, network, preconditioning)
        loss = denoising_loss(clean, case["x"], sigma, case[f"{kind}_unit_noise"], levels)
        torch.testing.assert_close(loss, case[f"{kind}_loss"], rtol=1e-4, atol=1e-5)
        total = loss.sum() / len(loss)
        torch.testing.assert_close(total, case[f"{kind}_loss_sum_over_batch"], rtol=1e-5, atol=0)
        total.backward()
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
        torch.testing.assert_close(norm, case[f"{kind}_grad_norm_all_params"], rtol=1e-4, atol=0)
        expected = case[f"{kind}_grad_final_linear_w"]
        found = network.final_layer.linear.weight.grad
        assert found is not None
        _close(found, expected, 1e-4 * float(expected.abs().max()))


def check_schedule(path: Path) -> None:
    """Compare learning rate and averaging weight of the published recipe."""
    case = np.load(path)
    config = PriorTrainingConfig()
    for seen, rate, beta in zip(case["nimg"], case["lr"], case["ema_beta"], strict=True):
        np.testing.assert_allclose(learning_rate(config, int(seen)), rate, rtol=1e-9)
        np.testing.assert_allclose(ema_beta(config, int(seen)), beta, rtol=1e-9)


def _as_list(shape: str) -> str:
    """Turn "(3,)" into "[3]"."""
    return "[" + shape.strip("() ").rstrip(",") + "]"


def _tensors(path: Path) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in np.load(path).items()}


def _close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=atol)
