"""Skeleton losses: light skeleton against the plain one, hand-worked cases, repair of a gap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from geo3d.errors import ConfigError, InputError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import distance_map
from geo3d.topology.losses.catalogue import LOSSES
from geo3d.topology.losses.cb_dice import cb_dice_loss
from geo3d.topology.losses.cl_dice import (
    MOST_ROUNDS,
    cl_dice_loss,
    label_rounds,
)
from geo3d.topology.losses.inputs import probabilities
from geo3d.topology.losses.overlap import ce_dice_loss
from geo3d.topology.losses.skeleton_recall import label_tubes, recall_term, skeleton_recall_loss
from geo3d.topology.losses.soft_skeletons import light_soft_skeleton
from geo3d.topology.skeleton import hard_skeleton, rounds_needed, soft_skeleton, thin


def maps(shape: tuple[int, ...], levels: int, seed: int = 0) -> Tensor:
    """Return random maps; with few levels most windows hold ties."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return (noise * levels).round() / levels


def scores_of(probability: Tensor) -> Tensor:
    """Return scores of two classes with a given foreground probability."""
    p = probability.clamp(1e-4, 1 - 1e-4)
    return torch.stack([torch.log1p(-p), torch.log(p)], dim=1)


@pytest.mark.parametrize("shape", [(2, 2, 20, 17), (1, 2, 6, 7, 8), (1, 1, 1, 7), (1, 1, 5, 1)])
@pytest.mark.parametrize("levels", [3, 8, 10**6])
@pytest.mark.parametrize("rounds", [0, 4, 9])
def test_the_light_skeleton_is_the_plain_one(
    shape: tuple[int, ...], levels: int, rounds: int
) -> None:
    one, two = (maps(shape, levels).requires_grad_() for _ in range(2))
    light, plain = light_soft_skeleton(one, rounds), soft_skeleton(two, rounds)
    assert torch.equal(light, plain)
    weights = maps(shape, 10**6, seed=1)
    (light * weights).sum().backward()
    (plain * weights).sum().backward()
    assert one.grad is not None and two.grad is not None
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-5, atol=1e-5)
    assert torch.equal(light_soft_skeleton(one.detach(), rounds), plain.detach())


def test_the_light_skeleton_in_float64_and_its_errors() -> None:
    x = maps((1, 2, 7, 8), 10**6).double()
    assert torch.equal(light_soft_skeleton(x, 3), soft_skeleton(x, 3))
    assert torch.autograd.gradcheck(
        lambda v: light_soft_skeleton(v, 2), x.requires_grad_(), fast_mode=True
    )
    with pytest.raises(ConfigError) as caught:
        light_soft_skeleton(x, -1)
    assert caught.value.code == "topology.bad_rounds"


def test_a_map_changed_behind_the_skeleton_is_noticed() -> None:
    x = maps((1, 1, 6, 6), 9).requires_grad_()
    doubled = x * 2
    skeleton = light_soft_skeleton(doubled, 3)
    doubled.mul_(3)
    with pytest.raises(RuntimeError, match="inplace"):
        skeleton.sum().backward()


def line(width: int = 5, gap: bool = False) -> Tensor:
    mask = torch.zeros(21, 30)
    mask[8 : 8 + width, 2:28] = 1
    if gap:
        mask[:, 14:17] = 0
    return mask


def test_cl_dice_of_hand_worked_lines() -> None:
    label = line(1).long()[None]
    value = cl_dice_loss(1e4 * (scores_of(line(1)[None])), label, alpha=1.0)
    assert float(value) == pytest.approx(0, abs=1e-6)
    # A line without 3 of its 26 pixels: precision 24 / 24, recall 24 / 27.
    value = cl_dice_loss(1e4 * scores_of(line(1, gap=True)[None]), label, alpha=1.0)
    assert float(value) == pytest.approx(1 - 2 * (24 / 27) / (1 + 24 / 27), abs=1e-6)


def test_cl_dice_sums_per_item_or_as_published_over_the_batch() -> None:
    """A whole line beside one without 3 of its 26 pixels: two scores' mean, or one of all sums."""
    label = torch.stack([line(1), line(1)]).long()
    logits = 1e4 * torch.cat([scores_of(line(1)[None]), scores_of(line(1, gap=True)[None])])

    def harmonic(precision: float, recall: float) -> float:
        return 2 * precision * recall / (precision + recall)

    value = cl_dice_loss(logits, label, alpha=1.0)
    assert float(value) == pytest.approx(1 - (1 + harmonic(1, 24 / 27)) / 2, abs=1e-6)
    # As published the probabilities are made such once more, so compare with the sums themselves.
    value = cl_dice_loss(logits, label, alpha=1.0, compat=True)
    p = probabilities(logits)[:, 1]
    ours, theirs = (soft_skeleton(x[:, None].float(), 3)[:, 0] for x in (p, label))
    precision = (float((ours * label).sum()) + 1) / (float(ours.sum()) + 1)
    recall = (float((theirs * p).sum()) + 1) / (float(theirs.sum()) + 1)
    assert float(value) == pytest.approx(1 - harmonic(precision, recall), abs=1e-6)


def test_cl_dice_takes_the_rounds_that_each_label_and_prediction_need() -> None:
    labels = torch.stack([line(3), line(9)]).long()
    assert label_rounds(labels, 2) == 4
    assert label_rounds(torch.ones_like(labels), 2) == label_rounds(0 * labels, 2) == 0
    huge = torch.zeros(1, 99, 99, dtype=torch.long)
    huge[:, 1:-1, 1:-1] = 1
    assert label_rounds(huge, 2) == MOST_ROUNDS
    scores = torch.randn(2, 2, 21, 30, generator=torch.Generator().manual_seed(0))
    found = (probabilities(scores)[:, 1] > 0.5).long()
    alone = []
    for one, two, z in zip(labels, found, scores, strict=True):
        rounds = max(label_rounds(mask[None], 2) for mask in (one, two))
        alone.append(cl_dice_loss(z[None], one[None], rounds=rounds))
    torch.testing.assert_close(cl_dice_loss(scores, labels), torch.stack(alone).mean())
    torch.testing.assert_close(
        cl_dice_loss(scores, labels, compat=True),
        cl_dice_loss(scores, labels, rounds=3, compat=True),
    )


@pytest.mark.parametrize("half", [1, 2, 4, 8, 12, 25, 31])
def test_a_false_bar_of_any_width_has_a_price(half: int) -> None:
    """A thin label, and a second bar in the prediction; half a bar of 31 fills the rest.

    Case `cl_dice_thick_false_bar`.
    """
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[:, 2:5, 3:61] = 1
    mask = labels[0].bool()
    mask[max(36 - half, 7) : 37 + half, 3:61] = True
    scores = torch.zeros(1, 2, 64, 64)
    scores[:, 1] = torch.where(mask, 3.0, -3.0)
    scores.requires_grad_()
    value = cl_dice_loss(scores, labels, alpha=1)
    value.backward()
    assert scores.grad is not None
    assert value > 0.2 and scores.grad[0, 1, 7:].abs().sum() > 1e-3
    # All of it foreground: no background tells how thick it is.
    full = torch.full((1, 2, 64, 64), 4.0)
    full[:, 0] = -4
    assert cl_dice_loss(full, labels, alpha=1) > 0.5
    assert cl_dice_loss(-full, torch.ones_like(labels), alpha=1) > 0.5


def test_skeleton_recall_of_a_hand_worked_line() -> None:
    label = line(1).long()[None]
    tubes = label_tubes(label, 2)
    assert torch.equal(tubes[0, 0], label[0] == 1)
    p = torch.full((1, 21, 30), 0.25)
    assert float(recall_term(scores_of(p), label, tubes=tubes)) == pytest.approx(-0.25, abs=1e-5)
    scores = scores_of(p)
    torch.testing.assert_close(
        skeleton_recall_loss(scores, label), skeleton_recall_loss(scores, label, tubes=tubes)
    )
    with pytest.raises(InputError) as caught:
        skeleton_recall_loss(scores, label, tubes=tubes.expand(1, 2, -1, -1))
    assert caught.value.code == "loss.wrong_tubes"


def test_skeleton_recall_is_added_to_both_base_terms_or_as_published_to_one() -> None:
    label = line(3).long()[None]
    scores = torch.randn(1, 2, 21, 30, generator=torch.Generator().manual_seed(5))
    recall = recall_term(scores, label)
    own = skeleton_recall_loss(scores, label, lambd=3.0)
    torch.testing.assert_close(own, ce_dice_loss(scores, label) + 3 * recall)
    torch.testing.assert_close(
        skeleton_recall_loss(scores, label, compat=True), cross(scores, label) + recall
    )


def test_skeleton_recall_needs_no_thickness() -> None:
    label = line(7).long()[None]
    tube = label_tubes(label, 2)[0, 0]
    assert 5 * 15 < int(tube.sum()) < int(label.sum())
    assert float(recall_term(100 * scores_of(tube[None].float()), label)) == pytest.approx(-1)


def cb_sums(p: np.ndarray, width: int) -> float:
    """Return cbDice's own term of a predicted line of a width, by its only remaining pixels."""
    label = line(width).long()[None]
    scores = 1e4 * scores_of(torch.from_numpy(p)[None])
    return float(2 * cb_dice_loss(scores, label, alpha=0.0) - cross(scores, label))


def cross(scores: Tensor, label: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(scores, label)


def test_cb_dice_of_equal_and_thinner_lines() -> None:
    same = cb_sums(line(5).numpy(), 5)
    assert same == pytest.approx(-1, abs=1e-4)
    # One pixel wide in a label 5 wide (26 pixels, the thinned label has 22 or more): precision
    # weighs each with distance 1, recall counts only the pixels that the label's own line crosses.
    thin_line = torch.zeros(21, 30)
    thin_line[10, 2:28] = 1
    assert -1.5 < cb_sums(thin_line.numpy(), 5) < -0.5
    broken = thin_line.clone()
    broken[:, 10:20] = 0
    assert cb_sums(broken.numpy(), 5) > cb_sums(thin_line.numpy(), 5) + 0.1


def test_cb_dice_of_thin_lines_by_hand() -> None:
    """A line of 26 pixels, 3 of them missed and 4 found elsewhere, with probability 3/4."""
    label = line(1).long()[None]
    found = line(1, gap=True)
    found[2, 5:9] = 1
    scores = scores_of(0.75 * found[None])
    # Every distance is 1.  Sums over the found line, where q counts once on the label's line and
    # squared beside it, and over the label's, where what is missed counts 1.
    precision = (0.75 * 23 + 1) / (0.75 * 23 + 0.75**2 * 4 + 1)
    recall = (0.75 * 23 + 1) / (0.75 * 23 + 3 + 1)
    first = 2 * precision * recall / (precision + recall)
    value = 2 * cb_dice_loss(scores, label, alpha=0.0) - cross(scores, label)
    assert float(value) == pytest.approx(-first, abs=1e-5)
    # beside an item without a fault: the mean of both
    both, labels = torch.cat([scores, scores_of(0.75 * line(1)[None])]), label.repeat(2, 1, 1)
    value = 2 * cb_dice_loss(both, labels, alpha=0.0) - cross(both, labels)
    assert float(value) == pytest.approx(-(first + 1) / 2, abs=1e-5)
    # as published: one pair of all sums
    precision = (0.75 * 49 + 1) / (0.75 * 49 + 0.75**2 * 4 + 1)
    recall = (0.75 * 49 + 1) / (0.75 * 49 + 3 + 1)
    value = 2 * cb_dice_loss(both, labels, alpha=0.0, compat=True)
    value = value - cross(both, labels)
    assert float(value) == pytest.approx(-2 * precision * recall / (precision + recall), abs=1e-5)


def cb_term(q: np.ndarray, label: np.ndarray) -> float:
    """Return 2 Tp Ts / (Tp + Ts) of one item and class by the formulas, pixel by pixel."""
    h = q > 0.5

    def parts(mask: np.ndarray) -> tuple[np.ndarray, ...]:
        line = hard_skeleton(mask) if mask.ndim == 3 else thin(mask, rounds_needed(mask) + 1)
        d = distance_map(mask)
        scaled = np.minimum(d / max(d[line].max(), 1.0), 1)
        radius = np.where(line, scaled, 0)
        inverse = np.where(line, (1 + 1e-7) / (radius ** (mask.ndim - 1) + 1e-7), 0)
        return line, scaled, radius, inverse, d / max(d[line].max(), 1.0)

    (k_p, d_p, r_p, i_p, all_p), (k_t, d_t, r_t, i_t, all_t) = parts(h), parts(label)
    s = k_p * q
    upper_p = (i_p * s * d_t * label).sum() + 1
    lower_p = (np.where(r_t > 0, i_p * s * r_t, i_p * s * all_p * q)).sum() + 1
    upper_t = (i_t * d_p * q * k_t).sum() + 1
    lower_t = (k_t * np.where(r_p > 0, i_t * r_p * q, i_t * all_t)).sum() + 1
    first, second = upper_p / lower_p, upper_t / lower_t
    return 2 * first * second / (first + second)


@pytest.mark.parametrize("shape", [(24, 30), (10, 11, 12)])
def test_cb_dice_of_thick_blobs_is_the_formula(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    label, q = np.zeros(shape, bool), rng.uniform(0.02, 0.4, shape)
    label[(slice(2, 9), *[slice(2, -2)] * (len(shape) - 1))] = True
    q[(slice(3, 8), *[slice(1, -3)] * (len(shape) - 1))] += 0.5
    scores, labels = scores_of(torch.from_numpy(q)[None]), torch.from_numpy(label).long()[None]
    value = 2 * cb_dice_loss(scores, labels, alpha=0.0) - cross(scores, labels)
    assert float(value) == pytest.approx(-cb_term(q, label), abs=1e-5)


def test_cb_dice_blends_by_the_share_of_its_weights() -> None:
    label = line(3).long()[None]
    scores = torch.randn(1, 2, 21, 30, generator=torch.Generator().manual_seed(3))
    dice, lines = (
        2 * cb_dice_loss(scores, label, alpha=a, beta=1 - a) - cross(scores, label)
        for a in (1.0, 0.0)
    )
    value = 2 * cb_dice_loss(scores, label, alpha=1.0, beta=3.0) - cross(scores, label)
    torch.testing.assert_close(value, dice / 4 + 3 * lines / 4)


@pytest.mark.parametrize("alpha, beta", [(-1.0, 1.0), (0.0, 0.0), (1.0, -2.0)])
def test_cb_dice_refuses_weights(alpha: float, beta: float) -> None:
    with pytest.raises(ConfigError) as caught:
        cb_dice_loss(torch.zeros(1, 2, 5, 5), torch.zeros(1, 5, 5).long(), alpha=alpha, beta=beta)
    assert caught.value.code == "loss.bad_weights"


def test_cb_dice_lumps_classes_only_as_published() -> None:
    labels = (line(5).long() * 2)[None]
    labels[0, 12] = 1 * (labels[0, 12] > 0)
    scores = torch.randn(1, 3, 21, 30, generator=torch.Generator().manual_seed(1))
    published, own = (cb_dice_loss(scores, labels, compat=c) for c in (True, False))
    assert published.isfinite() and own.isfinite() and published != own


@pytest.mark.parametrize("name", ["cl_dice", "skeleton_recall", "cb_dice"])
def test_descending_closes_a_gap(name: str) -> None:
    label = line(5).long()[None]
    scores = (4 * (2 * line(5, gap=True) - 1)).requires_grad_()
    optimiser = torch.optim.Adam([scores], lr=0.3)
    assert betti_numbers((scores > 0).detach().numpy()) == (2, 0)
    for _ in range(60):
        optimiser.zero_grad()
        LOSSES[name].function(torch.stack([-scores, scores])[None] / 2, label).backward()
        optimiser.step()
    assert betti_numbers((scores > 0).detach().numpy()) == (1, 0)
