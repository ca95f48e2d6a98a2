"""Score distillation: hand-worked values, gradients of both forms, and what is refused."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from geo3d.distill.objectives import sds_guidance, sds_loss
from geo3d.errors import ConfigError, ShapeError


def towards(clean: Tensor):
    """Return a denoiser that always answers ``clean``."""
    return lambda x, sigma: clean.expand_as(x)


def shrink(x: Tensor, sigma: Tensor) -> Tensor:
    """Denoise under the prior N(0, 1): x / (1 + sigma^2)."""
    return x / (1 + sigma[:, None, None] ** 2)


def test_guidance_points_from_the_prior_to_the_item() -> None:
    items = torch.tensor([[[1.0, 2.0]], [[0.0, -1.0]]])
    clean = torch.tensor([[0.5, 0.5]])
    found = sds_guidance(towards(clean), items, torch.tensor([0.1, 1.0]), torch.zeros(1, 1, 1, 2))
    torch.testing.assert_close(found, items - clean)


def test_guidance_of_a_gaussian_prior_in_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    sigma = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    expected = torch.zeros_like(items)
    for b in range(2):
        for n in range(5):
            noisy = items[b] + sigma[b, n] * noise[b, n]
            expected[b] += (items[b] - noisy / (1 + sigma[b, n] ** 2)) / 5
    torch.testing.assert_close(sds_guidance(shrink, items, sigma, noise), expected)


def test_shared_noise_and_shared_levels_are_repeated() -> None:
    items, noise = torch.ones(2, 3, 3), torch.randn(1, 1, 3, 3)
    sigma = torch.tensor([0.2, 0.7])
    spelled = sds_guidance(shrink, items, sigma.expand(2, 2), noise.expand(2, 2, 3, 3))
    torch.testing.assert_close(sds_guidance(shrink, items, sigma, noise), spelled)


def test_guidance_takes_no_gradient_through_the_denoiser() -> None:
    items = torch.ones(1, 2, 2, requires_grad=True)
    found = sds_guidance(shrink, items, torch.tensor([0.5]), torch.zeros(1, 1, 2, 2))
    assert not found.requires_grad


def test_corrected_gradient_is_the_weighted_guidance() -> None:
    generator = torch.Generator().manual_seed(1)
    fmap = torch.randn(1, 6, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    guidance = torch.randn(1, 6, 6, generator=generator, dtype=torch.float64)
    (3.0 * sds_loss(fmap, guidance, "corrected")).sum().backward()
    assert fmap.grad is not None
    # with respect to |C| it is w g; the sign brings it to C
    torch.testing.assert_close(fmap.grad * fmap.detach().sign(), 3.0 * guidance)


def test_a_step_along_the_corrected_gradient_approaches_the_prior() -> None:
    fmap = torch.tensor([[[-2.0, 0.5]]], requires_grad=True)
    clean = torch.tensor([[1.0, 1.0]])
    guidance = sds_guidance(
        towards(clean), fmap.detach().abs(), torch.tensor([0.3]), torch.zeros(1, 1, 1, 2)
    )
    sds_loss(fmap, guidance).sum().backward()
    assert fmap.grad is not None
    moved = fmap.detach() - fmap.grad
    torch.testing.assert_close(moved, torch.tensor([[[-1.0, 1.0]]]))


def test_released_form_is_a_penalty_on_negative_entries() -> None:
    fmap = torch.tensor([[2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    loss = sds_loss(fmap, torch.zeros(1, 2, dtype=torch.float64), "released")
    assert float(loss.detach()) == pytest.approx((2 * 3.0) ** 2 / 2)
    loss.backward()
    assert fmap.grad is not None
    # d/dC of (|C| - const)^2 / 2 with |C| - const = 6 at the negative entry
    torch.testing.assert_close(fmap.grad, torch.tensor([[0.0, -6.0]], dtype=torch.float64))


@pytest.mark.parametrize("form", ["released", "corrected"])
def test_batch_gives_one_loss_per_item(form: str) -> None:
    fmaps, guidance = torch.randn(3, 4, 4), torch.randn(3, 4, 4)
    together = sds_loss(fmaps, guidance, form)  # type: ignore[arg-type]
    alone = [sds_loss(fmaps[i], guidance[i], form) for i in range(3)]  # type: ignore[arg-type]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("shape", [(3, 4, 3, 3), (2, 3, 3, 3)])
def test_noise_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError) as caught:
        inspect.unwrap(sds_guidance)(shrink, torch.ones(2, 3, 3), torch.ones(4), torch.ones(shape))
    assert caught.value.code == "objectives.bad_probes"


def test_unknown_form_is_refused() -> None:
    unchecked = inspect.unwrap(sds_loss)
    with pytest.raises(ConfigError) as caught:
        unchecked(torch.ones(1, 2), torch.ones(1, 2), "paper")
    assert caught.value.code == "objectives.unknown_form"
