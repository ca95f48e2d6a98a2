"""Golden cases of the learned prior: network, preconditionings, losses, training schedule."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
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


def tiny_denoiser(path: Path) -> Denoiser:
    """Return the small network with its golden weights; ``path`` is any case beside them."""
    network = Denoiser(DenoiserConfig(size=30, patch=5, width=48, depth=3, heads=4))
    network.load_state_dict(load_file(path.with_name("dit_tiny.safetensors")))
    return network


def check_weights(path: Path) -> None:
    """Names and shapes of the small network are ours; so is its fixed position table."""
    expected = load_file(path)
    network = Denoiser(DenoiserConfig(size=30, patch=5, width=48, depth=3, heads=4))
    assert {n: t.shape for n, t in network.state_dict().items()} == {
        n: t.shape for n, t in expected.items()
    }
    torch.testing.assert_close(network.pos_embed.data, expected["pos_embed"], rtol=0, atol=1e-7)


@torch.no_grad()
def check_forward(path: Path) -> None:
    """Compare the stages of the network, its output, and the denoisers made of it."""
    case = _tensors(path)
    network = tiny_denoiser(path)
    x, t = case["x"], case["t"]
    _close(sinusoids(t), case["t_freq"])
    _close(network.t_embedder(t), case["t_embed"])
    _close(network.x_embedder(x), case["patch_tokens"])
    _close(network.pos_embed, case["pos_embed"])
    _close(network(x, t), case["out"])
    iddpm = IDDPM()
    _close(iddpm.levels(), case["iddpm_u"])
    assert torch.equal(iddpm.nearest_level(case["sigma"]), case["iddpm_index"])
    one_level = torch.full((len(x),), 0.7)
    expected: dict[str, tuple[Preconditioning, Tensor]] = {
        "D_iddpm": (iddpm, case["sigma"]),
        "D_iddpm_sigma0p7_broadcast": (iddpm, one_level),
        "D_edm": (EDM(0.5), case["sigma_edm"]),
        "D_ve": (VE(), case["sigma_edm"]),
    }
    for name, (preconditioning, sigma) in expected.items():
        found = denoise(network, preconditioning, x, sigma)
        torch.testing.assert_close(
            found, case[name], rtol=0, atol=1e-5 * float(case[name].abs().max()), msg=name
        )


def check_layout(path: Path) -> None:
    """Compare names, shapes and sizes of the published network with our default one."""
    case = np.load(path)
    network = Denoiser(DenoiserConfig())
    found = [(f"{n} {tuple(p.shape)}", p) for n, p in network.named_parameters()]
    assert [name for name, _ in found] == list(case["names"])
    assert sum(p.numel() for _, p in found) == case["n_params"]
    assert sum(p.numel() for _, p in found if p.requires_grad) == case["n_trainable"]


def check_losses(path: Path) -> None:
    """Compare both losses entry by entry, their noise levels and their gradients."""
    case = _tensors(path)
    _close(vp_sigma(case["vp_t"]), case["vp_sigma_of_t"])
    for kind, preconditioning in (("vp", IDDPM()), ("edm", EDM(0.5))):
        network = tiny_denoiser(path)
        levels = LevelDistribution("vp" if kind == "vp" else "edm", sigma_data=0.5)
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


def _tensors(path: Path) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in np.load(path).items()}


def _close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=atol)
