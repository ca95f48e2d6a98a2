"""Overlap losses, worst neighbours and deep supervision: hand-worked cases, references, errors."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from geo3d.errors import ConfigError, ShapeError
from geo3d.topology.losses.cl_dice import cl_dice_loss
from geo3d.topology.losses.deep import deep_supervision, head_weights
from geo3d.topology.losses.options import as_batch
from geo3d.topology.losses.overlap import (
    ce_dice_loss,
    cross_entropy,
    dice_term,
    region_maps,
    region_wise_loss,
    scnp_loss,
    worst_neighbour_logits,
)


def random(n_classes: int = 3, space: tuple[int, ...] = (7, 9)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    scores = torch.randn(2, n_classes, *space, generator=generator)
    return scores, torch.randint(0, n_classes, (2, *space), generator=generator)


def test_cross_entropy_is_torchs() -> None:
    scores, labels = random()
    torch.testing.assert_close(cross_entropy(scores, labels), F.cross_entropy(scores, labels))
    soft = torch.softmax(scores.flip(0), dim=1)
    torch.testing.assert_close(cross_entropy(scores, soft), F.cross_entropy(scores, soft))


def test_a_hopeless_pixel_keeps_its_gradient_only_by_default() -> None:
    labels = torch.ones(1, 2, 2).long()
    for compat in (False, True):
        scores = torch.tensor([90.0, -90.0]).view(1, 2, 1, 1).repeat(1, 1, 2, 2).requires_grad_()
        cross_entropy(scores, labels, compat=compat).backward()
        assert scores.grad is not None
        assert (scores.grad.abs().max() > 0.2) != compat


def test_dice_of_hand_worked_halves() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]]])
    # Background Dice 2 * 1 / (2 + 2), foreground the same.
    assert float(dice_term(torch.zeros(1, 2, 1, 4), labels)) == pytest.approx(-0.5, abs=1e-5)
    weighted = dice_term(torch.zeros(1, 2, 1, 4), labels, weight=[0.0, 4.0])
    assert float(weighted) == pytest.approx(-1, abs=1e-5)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0, 1.0], [1.0, 1.0, float("nan")]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    scores, labels = random()
    with pytest.raises(ConfigError) as caught:
        ce_dice_loss(scores, labels, weight=weights)
    assert caught.value.code == "loss.bad_weights"


def test_region_wise_of_a_hand_worked_line() -> None:
    labels = torch.tensor([[[0, 1, 1, 1, 0]]])
    expected = [[[1, -0.5, -1, -0.5, 1]], [[-1, 1, 1, 1, -1]]]
    maps = region_maps(as_batch(torch.zeros(1, 2, 1, 5), labels))
    np.testing.assert_allclose(maps[0], expected[::-1])
    assert float(region_wise_loss(torch.zeros(1, 2, 1, 5), labels)) == pytest.approx(0.05)


def test_region_wise_of_absent_and_full_classes() -> None:
    maps = region_maps(as_batch(torch.zeros(1, 2, 4, 5), torch.zeros(1, 4, 5).long()))
    assert (maps[:, 0] == -1).all() and (maps[:, 1] == 1).all()


def test_region_wise_of_a_soft_target_follows_its_certainty() -> None:
    hard = torch.tensor([[[0, 1, 1, 1, 0]]])
    like = torch.zeros(1, 2, 1, 5)
    soft = F.one_hot(hard, 2).movedim(-1, 1).float()
    torch.testing.assert_close(region_maps(as_batch(like, soft)), region_maps(as_batch(like, hard)))
    unsure = region_maps(as_batch(like, 0.5 * soft + 0.25))
    assert ((unsure > region_maps(as_batch(like, hard))) == (soft == 1)).all()
    scores = torch.zeros(1, 2, 1, 5, requires_grad=True)
    region_wise_loss(scores, 0.9 * soft + 0.05).backward()
    assert scores.grad is not None and scores.grad.abs().min() > 1e-3


@pytest.mark.parametrize("space", [(6, 7), (4, 5, 6)])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_worst_neighbours_by_brute_force(space: tuple[int, ...], size: int) -> None:
    scores, labels = random(3, space)
    found = worst_neighbour_logits(scores, labels, size)
    if size == 1:
        assert torch.equal(found, scores)
    reach = size // 2
    for place in np.ndindex(2, 3, *space):
        item, c, *at = place
        window = tuple(slice(max(k - reach, 0), k + reach + 1) for k in at)
        same = (labels[item] == c)[window] == (labels[(item, *at)] == c)
        values = scores[item, c][window][same]
        wanted = values.min() if labels[(item, *at)] == c else values.max()
        assert found[place] == wanted


def test_worst_neighbours_wrap_any_loss() -> None:
    scores, labels = random(2)
    worst = worst_neighbour_logits(scores, labels, 5)
    found = scnp_loss(scores, labels, size=5, loss=cl_dice_loss, rounds=1)
    torch.testing.assert_close(found, cl_dice_loss(worst, labels, rounds=1))
    for size in (0, 2, -1):
        with pytest.raises(ConfigError) as caught:
            worst_neighbour_logits(scores, labels, size)
        assert caught.value.code == "loss.bad_window"


def test_heads_are_weighted_by_halves() -> None:
    assert head_weights(3) == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    assert head_weights(2, compat=True) == pytest.approx((1 / 2, 1 / 6))
    assert head_weights(1) == head_weights(1, compat=True) == (1.0,)
    heads, labels = random(2)
    several = heads[:, None].repeat(1, 4, 1, 1, 1)
    torch.testing.assert_close(
        deep_supervision(ce_dice_loss, several, labels), ce_dice_loss(heads, labels)
    )


def test_the_loss_of_other_heads_may_be_another() -> None:
    scores, labels = random(2)
    heads = torch.stack([scores, scores + 1, -scores], dim=1)
    found = deep_supervision(ce_dice_loss, heads, labels, auxiliary=dice_term)
    parts = [ce_dice_loss(scores, labels), dice_term(scores, labels), dice_term(-scores, labels)]
    expected = sum(w * part for w, part in zip(head_weights(3), parts, strict=True))
    torch.testing.assert_close(found, torch.as_tensor(expected))
    with pytest.raises(ShapeError) as caught:
        deep_supervision(partial(ce_dice_loss), scores, labels)
    assert caught.value.code == "loss.no_heads"
