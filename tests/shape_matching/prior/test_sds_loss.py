"""The score distillation loss of maps: gradients of both forms, and what is refused."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from geo3d.distill.score import denoiser_gradient
from geo3d.errors import ConfigError
from shape_matching.prior.zero_shot import sds_loss


def towards(clean: Tensor):
    """Return a denoiser that always answers ``clean``."""
    return lambda x, sigma: clean.expand_as(x)


def test_corrected_gradient_is_the_weighted_gradient() -> None:
    generator = torch.Generator().manual_seed(1)
    fmap = torch.randn(1, 6, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(1, 6, 6, generator=generator, dtype=torch.float64)
    (3.0 * sds_loss(fmap, gradient, "corrected")).sum().backward()
    assert fmap.grad is not None
    # with respect to |C| it is w g; the sign brings it to C
    torch.testing.assert_close(fmap.grad * fmap.detach().sign(), 3.0 * gradient)


def test_a_step_along_the_corrected_gradient_approaches_the_prior() -> None:
    fmap = torch.tensor([[[-2.0, 0.5]]], requires_grad=True)
    clean = torch.tensor([[1.0, 1.0]])
    gradient = denoiser_gradient(
        towards(clean), fmap.detach().abs(), torch.tensor([0.3]), torch.zeros(1, 1, 1, 2)
    )
    sds_loss(fmap, gradient).sum().backward()
    assert fmap.grad is not None
    moved = fmap.detach() - fmap.grad
    torch.testing.assert_close(moved, torch.tensor([[[-1.0, 1.0]]]))


def test_released_form_is_a_penalty_on_negative_entries() -> None:
    fmap = torch.tensor([[[2.0, -3.0]]], dtype=torch.float64, requires_grad=True)
    loss = sds_loss(fmap, torch.zeros(1, 1, 2, dtype=torch.float64), "released")
    assert float(loss.detach()) == pytest.approx((2 * 3.0) ** 2 / 2)
    loss.backward()
    assert fmap.grad is not None
    # d/dC of (|C| - const)^2 / 2 with |C| - const = 6 at the negative entry
    torch.testing.assert_close(fmap.grad, torch.tensor([[[0.0, -6.0]]], dtype=torch.float64))


@pytest.mark.parametrize("form", ["released", "corrected"])
def test_batch_gives_one_loss_per_item(form: str) -> None:
    fmaps, gradient = torch.randn(3, 4, 4), torch.randn(3, 4, 4)
    together = sds_loss(fmaps, gradient, form)  # type: ignore[arg-type]
    alone = [sds_loss(fmaps[i : i + 1], gradient[i : i + 1], form) for i in range(3)]  # type: ignore[arg-type]
    torch.testing.assert_close(together, torch.cat(alone))


def test_unknown_form_is_refused() -> None:
    unchecked = inspect.unwrap(sds_loss)
    with pytest.raises(ConfigError) as caught:
        unchecked(torch.ones(1, 1, 2), torch.ones(1, 1, 2), "paper")
    assert caught.value.code == "zero_shot.unknown_form"
