"""Golden cases of the zero-shot matcher: feature network, masks, score distillation, soft maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from geo3d.checkpoints import load_into
from geo3d.distill.preconditioning import IDDPM, Denoise
from geo3d.distill.preconditioning import denoise as precondition
from geo3d.distill.score import denoiser_gradient
from geo3d.spectral.fmap import solve_fmap
from shape_matching.prior.denoiser import Denoiser, DenoiserConfig
from shape_matching.prior.feature_network import DiffusionNet, Surface, soft_map
from shape_matching.prior.masks import shrinkage_mask
from shape_matching.prior.zero_shot import sds_loss


def check_diffusionnet_weights(path: Path) -> None:
    """Load the published names, all of them and nothing else."""
    load_into(_tiny_network(), path)


def check_diffusionnet(path: Path) -> None:
    """Compare the output on all vertices of one mesh; some stored times are negative."""
    case, shape = np.load(path), np.load(path.with_name("operators_a.npz"))
    network = _tiny_network()
    load_into(network, path.with_name("diffusionnet_tiny.safetensors"))
    evecs = shape["evecs"].astype(np.float64)
    gradients = [_csr(shape, name) for name in ("gradX", "gradY")]
    for gradient, name in zip(gradients, ("gradX_of_xyz", "gradY_of_xyz"), strict=True):
        np.testing.assert_allclose(gradient @ case["x_in"], case[name], atol=1e-5)
    surface = Surface(
        _float(shape["evals"]),
        _float(evecs),
        _float((evecs * shape["mass"][:, None]).T),
        (_float(gradients[0] @ evecs), _float(gradients[1] @ evecs)),
    )
    found = network(torch.from_numpy(case["x_in"]), surface).detach().numpy()
    np.testing.assert_allclose(found, case["out"], atol=1e-5 * abs(case["out"]).max())


def check_sds(path: Path) -> None:
    """Compare the gradient, the loss as released and its gradient, and the loss on |C|."""
    case = _tensors(path)
    fmap = case["C"][None].clone().requires_grad_()
    noise = case["unit_noise_shared"][None, None]
    found = denoiser_gradient(_tiny_prior(path), fmap.abs(), case["sigma"].flatten(), noise)
    _same(found, case["grad"], 1e-5)
    if "lr" not in case:
        return
    rate = float(case["lr"])
    loss = sds_loss(fmap, found, "released", rate)
    _same(loss[0], case["l_sds_as_released"], 1e-5)
    loss.sum().backward()
    assert fmap.grad is not None
    _same(fmap.grad[0], case["dl_dC_as_released"], 1e-5)
    on_absolute = sds_loss(fmap.detach().abs(), found, "released", rate)[0]
    _same(on_absolute, case["l_sds_if_target_used_absC"], 1e-4)


def check_diffusion_masks(path: Path) -> None:
    """Compare the four variants of the published mask, and the layer in both directions."""
    case = _tensors(path)
    prior, noise = _tiny_prior(path), case["diff_mask_unit_noise"][:, 0][None]
    for normalize in (False, True):
        for absolute in (False, True):
            found = shrinkage_mask(
                prior, case["raw_C12"], noise, absolute=absolute, normalize=normalize
            )
            _same(found, case[f"diff_mask12_norm{normalize:d}_abs{absolute:d}"], 1e-5)
    fmaps = torch.cat([case["raw_C12"], case["raw_C21"]])
    both = torch.stack([case["diff_layer_noise12"][:, 0], case["diff_layer_noise21"][:, 0]])
    masks = shrinkage_mask(prior, fmaps, both)
    _same(masks, torch.cat([case["diff_layer_D12"], case["diff_layer_D21"]]), 1e-5)
    coefficients = torch.stack([case["A"], case["B"]])
    solved = solve_fmap(coefficients, coefficients.flip(0), masks, 0.1)
    _same(solved, torch.cat([case["diff_layer_C12_0p1"], case["diff_layer_C21_0p1"]]), 1e-4)


def check_soft_map(path: Path) -> None:
    """Compare the product and the distance softmax."""
    case = _tensors(path)
    sharpness = float(case["alpha"])
    found = soft_map(case["X_rows"], case["Y_rows"], sharpness)
    torch.testing.assert_close(found, case["soft_prod"], rtol=1e-4, atol=2e-5)
    found = soft_map(case["soft_dist_X"], case["Y_rows"], sharpness, "distance")
    torch.testing.assert_close(found, case["soft_dist"], rtol=1e-4, atol=1e-5)


def _tiny_network() -> DiffusionNet:
    return DiffusionNet(3, 16, width=24, blocks=2)


def _tiny_prior(path: Path) -> Denoise:
    network = Denoiser(DenoiserConfig(size=30, patch=5, width=48, depth=3, heads=4))
    load_into(network, path.with_name("dit_tiny.safetensors"))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return precondition(network, IDDPM(), x[:, None], sigma)[:, 0]

    return denoise


def _same(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare relative to the largest expected entry."""
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found.detach(), expected.detach(), atol=tolerance * scale, rtol=0)


def _tensors(path: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in np.load(path).items()}


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _csr(case: np.lib.npyio.NpzFile, name: str) -> sp.csr_matrix:
    return sp.csr_matrix((case[f"{name}_data"], case[f"{name}_indices"], case[f"{name}_indptr"]))
