"""Score distillation: hand-worked values, closed forms, and what is refused."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from geo3d.distill.score import (
    denoiser_gradient,
    loss_with_gradient,
    score_gradient,
    tracker_loss,
)
from geo3d.errors import NumericalError, ShapeError


def towards(clean: Tensor):
    """Return a denoiser that always answers ``clean``."""
    return lambda x, sigma: clean.expand_as(x)


def shrink(x: Tensor, sigma: Tensor) -> Tensor:
    """Denoise under the prior N(0, 1): x / (1 + sigma^2)."""
    return x / (1 + sigma[:, None, None] ** 2)


def test_the_gradient_points_from_the_prior_to_the_item() -> None:
    items = torch.tensor([[[1.0, 2.0]], [[0.0, -1.0]]])
    clean = torch.tensor([[0.5, 0.5]])
    found = denoiser_gradient(
        towards(clean), items, torch.tensor([0.1, 1.0]), torch.zeros(1, 1, 1, 2)
    )
    torch.testing.assert_close(found, items - clean)


def test_the_gradient_of_a_gaussian_prior_in_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    sigma = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    expected = torch.zeros_like(items)
    for b in range(2):
        for n in range(5):
            noisy = items[b] + sigma[b, n] * noise[b, n]
            expected[b] += (items[b] - noisy / (1 + sigma[b, n] ** 2)) / 5
    torch.testing.assert_close(denoiser_gradient(shrink, items, sigma, noise), expected)


def test_shared_noise_and_shared_levels_are_repeated() -> None:
    items, noise = torch.ones(2, 3, 3), torch.randn(1, 1, 3, 3)
    sigma = torch.tensor([0.2, 0.7])
    spelled = denoiser_gradient(shrink, items, sigma.expand(2, 2), noise.expand(2, 2, 3, 3))
    torch.testing.assert_close(denoiser_gradient(shrink, items, sigma, noise), spelled)


def test_the_gradient_takes_no_gradient_through_the_denoiser() -> None:
    items = torch.ones(1, 2, 2, requires_grad=True)
    found = denoiser_gradient(shrink, items, torch.tensor([0.5]), torch.zeros(1, 1, 2, 2))
    assert not found.requires_grad


@pytest.mark.parametrize("shape", [(3, 4, 3, 3), (2, 3, 3, 3)])
def test_noise_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError) as caught:
        inspect.unwrap(denoiser_gradient)(
            shrink, torch.ones(2, 3, 3), torch.ones(4), torch.ones(shape)
        )
    assert caught.value.code == "distill.bad_probes"


def test_gradients_by_hand_and_clipped() -> None:
    teacher, other = torch.tensor([[3.0, 100.0]]), torch.tensor([[1.0, 0.0]])
    weight = torch.tensor([0.5])
    assert score_gradient(teacher, other, weight).tolist() == [[1.0, 50.0]]
    assert score_gradient(teacher, other, weight, 8.0).tolist() == [[1.0, 8.0]]
    assert not score_gradient(teacher, teacher, weight).any()
    assert tracker_loss(teacher, teacher - 2).item() == 4.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_raise_and_are_not_cleaned(bad: float) -> None:
    teacher = torch.tensor([[1.0, bad]])
    with pytest.raises(NumericalError, match=r"1 of 2.*no finite"):
        score_gradient(teacher, torch.zeros(1, 2), torch.ones(1), 8.0)


def test_the_loss_of_an_item_has_its_gradient() -> None:
    x, g = torch.randn(2, 3).requires_grad_(), torch.randn(2, 3) + 1
    loss = loss_with_gradient(x, g)
    loss.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, g)
    torch.testing.assert_close(loss, 0.5 * (g**2).sum(dim=1))


def test_gradients_are_clipped_on_both_sides_and_the_tracker_is_subtracted() -> None:
    teacher, tracker = (
        torch.tensor([[3.0, -9.0], [1.0, 1.0]]),
        torch.tensor([[1.0, 0.0], [4.0, 1.0]]),
    )
    found = score_gradient(teacher, tracker, torch.tensor([1.0, 2.0]), 5.0)
    assert found.tolist() == [[2.0, -5.0], [-5.0, 0.0]]
    assert not score_gradient(teacher.requires_grad_(), tracker, torch.ones(2)).requires_grad
