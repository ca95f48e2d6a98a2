"""What holds for every loss of the catalogue: forms of input, types, empty masks, invariances."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch
from torch import Tensor

from geo3d.errors import InputError
from geo3d.topology.losses.catalogue import LOSSES, Loss

MINE = tuple(name for name in LOSSES if name not in ("warping", "topo_win", "cavity", "topograph"))
"""The others have files of their own."""
ROWS = [LOSSES[name] for name in MINE]


def batch(
    seed: int = 0, n_classes: int = 2, space: tuple[int, ...] = (20, 24)
) -> tuple[Tensor, Tensor]:
    """Return smooth random scores and labels."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.nn.functional.avg_pool2d if len(space) == 2 else torch.nn.functional.avg_pool3d
    noise = torch.randn(2, 2 * n_classes, *space, generator=generator)
    smooth = pool(noise, 3, stride=1, padding=1) * 4
    return smooth[:, :n_classes].contiguous(), smooth[:, n_classes:].argmax(dim=1)


def form(row: Loss, compat: bool) -> dict[str, bool]:
    """Return the setting that asks for the published form, of losses that have one of their own."""
    if "compat" in inspect.signature(row.function).parameters:
        return {"compat": compat}
    return pytest.skip("one form only") if compat else {}


def gradient(row: Loss, logits: Tensor, target: Tensor) -> Tensor:
    scores = logits.clone().requires_grad_()
    row.function(scores, target).backward()
    assert scores.grad is not None
    return scores.grad


@pytest.mark.parametrize("row", ROWS, ids=MINE)
@pytest.mark.parametrize("space", [(20, 24), (8, 9, 10)])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_images_volumes_and_classes(row: Loss, space: tuple[int, ...], n_classes: int) -> None:
    logits, labels = batch(1, n_classes, space)
    kept = logits.clone()
    value = row.function(logits, labels)
    assert value.shape == () and value.isfinite()
    torch.testing.assert_close(row.function(logits, labels[:, None]), value)
    soft = torch.nn.functional.one_hot(labels, n_classes).movedim(-1, 1).float()
    torch.testing.assert_close(row.function(logits, soft), value)
    grad = gradient(row, logits, labels)
    assert grad.isfinite().all() and grad.abs().sum() > 0
    # Scores matter only up to a constant per pixel.
    assert grad.sum(dim=1).abs().max() < 1e-6 or row.name == "scnp"
    assert torch.equal(logits, kept)


@pytest.mark.parametrize("row", ROWS, ids=MINE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(row: Loss, dtype: torch.dtype) -> None:
    logits, labels = batch(2)
    low = logits.to(dtype)
    torch.testing.assert_close(row.function(low, labels), row.function(low.float(), labels))
    grad = gradient(row, low, labels)
    assert grad.dtype == dtype and grad.isfinite().all()
    big = gradient(row, (logits * 2000).to(dtype), labels)
    assert big.isfinite().all()


@pytest.mark.parametrize("row", ROWS, ids=MINE)
def test_float64_stays_and_agrees(row: Loss) -> None:
    logits, labels = batch(3)
    double = row.function(logits.double(), labels)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), row.function(logits, labels), rtol=1e-5, atol=1e-6)
    there, here = gradient(row, logits.double(), labels), gradient(row, logits, labels)
    torch.testing.assert_close(there.float(), here, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("row", ROWS, ids=MINE)
@pytest.mark.parametrize("compat", [False, True])
def test_gradients_are_those_of_finite_differences(row: Loss, compat: bool) -> None:
    if row.name == "topo_loss" and compat:
        pytest.skip("levels that features are pushed to are constants there")
    logits, labels = batch(4, space=(5, 6))
    noise = torch.rand(logits.shape, generator=torch.Generator().manual_seed(5)).double()
    scores = (logits.double() + noise).requires_grad_()
    loss = partial(row.function, target=labels, **form(row, compat))
    assert torch.autograd.gradcheck(loss, scores, fast_mode=True)


@pytest.mark.parametrize("row", ROWS, ids=MINE)
@pytest.mark.parametrize("fill", [0, 1])
@pytest.mark.parametrize("score", [0.0, 30.0, -30.0])
@pytest.mark.parametrize("compat", [False, True])
def test_empty_and_full_masks(row: Loss, fill: int, score: float, compat: bool) -> None:
    labels = torch.full((2, 9, 9), fill)
    logits = torch.zeros(2, 2, 9, 9)
    logits[:, 1] = score
    scores = logits.clone().requires_grad_()
    value = row.function(scores, labels, **form(row, compat))
    value.backward()
    assert scores.grad is not None
    assert value.isfinite() and scores.grad.isfinite().all()


@pytest.mark.parametrize("row", ROWS, ids=MINE)
def test_a_better_prediction_has_a_lower_loss(row: Loss) -> None:
    _, labels = batch(6, 3)
    right = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    values = [row.function(scale * right, labels) for scale in (-3.0, 0.0, 3.0, 12.0)]
    assert values == sorted(values, reverse=True) and len(set(values)) == 4


@pytest.mark.parametrize("row", ROWS, ids=MINE)
def test_items_and_classes_may_change_places(row: Loss) -> None:
    logits, labels = batch(7, 3)
    value = row.function(logits, labels)
    torch.testing.assert_close(row.function(logits.flip(0), labels.flip(0)), value)
    swapped = torch.tensor([0, 2, 1])
    torch.testing.assert_close(row.function(logits[:, swapped], swapped[labels]), value)
    # Each item counts alone: the mean over a batch is the mean of its items.
    alone = [row.function(logits[k : k + 1], labels[k : k + 1]) for k in range(2)]
    torch.testing.assert_close(torch.stack(alone).mean(), value)


@pytest.mark.parametrize("row", ROWS, ids=MINE)
def test_a_soft_target_pulls_towards_itself(row: Loss) -> None:
    _, labels = batch(8)
    hard = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    soft = 0.8 * hard + 0.1
    grad = gradient(row, 5 * (0.5 - hard), soft)
    assert grad.isfinite().all() and (grad * hard).sum() < 0


@pytest.mark.parametrize("row", ROWS, ids=MINE)
def test_bad_inputs_are_refused(row: Loss) -> None:
    logits, labels = batch()
    with pytest.raises(InputError):
        row.function(logits[:, :1], labels)
    with pytest.raises(InputError):
        row.function(logits, labels + 1)


def test_the_catalogue_is_in_order() -> None:
    for name, row in LOSSES.items():
        assert name == row.name and row.paper and row.note
        assert 0 <= row.active_after < 1 and row.relative_cost > 0 and row.memory_per_pixel > 0
        assert set(row.dimensions) <= {2, 3}
