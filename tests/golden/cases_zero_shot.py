"""Golden cases of the zero-shot matcher: feature network, masks, score distillation, soft maps."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from golden.reading import denoiser_beside, feature_network, shapes_of, weights_for
from torch import Tensor

from geo3d.checkpoints import load_into
from geo3d.distill.preconditioning import IDDPM, Denoise
from geo3d.distill.preconditioning import denoise as precondition
from geo3d.distill.score import denoiser_gradient
from geo3d.spectral.fmap import solve_fmap
from shape_matching.prior.feature_network import Surface, soft_map
from shape_matching.prior.masks import shrinkage_mask
from shape_matching.prior.zero_shot import sds_loss


def check_diffusionnet_weights(path: Path) -> None:
    """Load the published names, all of them and nothing else."""
    load_into(feature_network(shapes_of(path)), path)


def check_diffusionnet(path: Path) -> None:
    """Compare the output on all vertices of one mesh; some stored times are negative."""
    case, weights = np.load(path), weights_for(path, "diffusionnet_*.safetensors")
    network = feature_network(shapes_of(weights))
    load_into(network, weights)
    # The settings are told in words: "... 64 eigenpairs of operators_a".
    told = re.search(r"(\d+) eigenpairs of (operators_\w+)", str(case["cfg"]))
    assert told, case["cfg"]
    k, shape = int(told[1]), np.load(path.with_name(f"{told[2]}.npz"))
    evecs = shape["evecs"][:, :k].astype(np.float64)
    gradients = [_csr(shape, name) for name in ("gradX", "gradY")]
    for gradient, name in zip(gradients, ("gradX_of_xyz", "gradY_of_xyz"), strict=True):
        np.testing.assert_allclose(gradient @ case["x_in"], case[name], atol=1e-5)
    surface = Surface(
        _float(shape["evals"][:k]),
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
    prior = _prior(path, fmap.shape[-1])
    found = denoiser_gradient(prior, fmap.abs(), case["sigma"].flatten(), noise)
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
    noise = case["diff_mask_unit_noise"][:, 0][None]
    prior = _prior(path, noise.shape[-1])
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
    solved_with = [name for name in case if name.startswith("diff_layer_C12_")]
    assert solved_with
    for name in solved_with:
        weight = float(name.removeprefix("diff_layer_C12_").replace("p", "."))
        solved = solve_fmap(coefficients, coefficients.flip(0), masks, weight)
        _same(solved, torch.cat([case[name], case[name.replace("C12", "C21")]]), 1e-4)


def check_soft_map(path: Path) -> None:
    """Compare the product and the distance softmax."""
    case = _tensors(path)
    sharpness = float(case["alpha"])
    found = soft_map(case["X_rows"], case["Y_rows"], sharpness)
    torch.testing.assert_close(found, case["soft_prod"], rtol=1e-4, atol=2e-5)
    found = soft_map(case["soft_dist_X"], case["Y_rows"], sharpness, "distance")
    torch.testing.assert_close(found, case["soft_dist"], rtol=1e-4, atol=1e-5)


def _prior(path: Path, size: int) -> Denoise:
    network = denoiser_beside(path, size)

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
