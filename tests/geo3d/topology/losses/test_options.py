"""What can be said to every loss: regions, ignored pixels, spacing, weights, reductions."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from geo3d.errors import Geo3dError
from geo3d.topology.losses.catalogue import LOSSES, Loss
from geo3d.topology.losses.cl_dice import cl_dice_loss
from geo3d.topology.losses.overlap import ce_dice_loss, cross_entropy, dice_term

ROWS = list(LOSSES.values())
NAMES = list(LOSSES)


def example(space: tuple[int, ...] = (18, 20), n_classes: int = 2) -> tuple[Tensor, Tensor]:
    """Return smooth random scores and labels of a batch of two."""
    generator = torch.Generator().manual_seed(len(space) + n_classes)
    noise = torch.randn(2, 2 * n_classes, *space, generator=generator)
    pool = torch.nn.functional.avg_pool2d if len(space) == 2 else torch.nn.functional.avg_pool3d
    smooth = pool(noise, 3, stride=1, padding=1) * 4
    return smooth[:, :n_classes].contiguous(), smooth[:, n_classes:].argmax(dim=1)


def gradient(row: Loss, scores: Tensor, labels: Tensor, **options: object) -> Tensor:
    z = scores.clone().requires_grad_()
    row.function(z, labels, **options).backward()
    assert z.grad is not None
    return z.grad


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
@pytest.mark.parametrize("space", [(18, 20), (7, 8, 9)])
def test_ignored_pixels_are_outside_the_picture(row: Loss, space: tuple[int, ...]) -> None:
    """They get no gradient and change nothing, and a loss of the rest is the loss of a crop.

    Case `ignore_255`.
    """
    if len(space) not in row.dimensions:
        return
    scores, labels = example(space)
    labels[..., -4:] = 255
    value = row.function(scores, labels, ignore_index=255)
    grad = gradient(row, scores, labels, ignore_index=255)
    assert value.isfinite() and grad.abs().sum() > 0 and not grad[..., -4:].any()
    other = scores.clone()
    other[..., -4:] = 5 * torch.randn(other[..., -4:].shape)
    torch.testing.assert_close(row.function(other, labels, ignore_index=255), value)
    mask = labels != 255
    for given in (mask, mask[:, None].float()):
        found = row.function(scores, labels.clamp(max=1), mask=given)
        torch.testing.assert_close(found, value)
    if row.name not in ("topo_win", "topo_loss"):  # which cut windows and patches from the corner
        crop = row.function(scores[..., :-4], labels[..., :-4])
        torch.testing.assert_close(value, crop)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_labels_that_mean_nothing_are_refused_with_a_way_out(row: Loss) -> None:
    """255 often means that nobody looked (case `ignore_255`)."""
    scores, labels = example()
    labels[0, 0] = 255
    with pytest.raises(Geo3dError, match="ignore_index=255"):
        row.function(scores, labels)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_nothing_annotated_costs_nothing_that_can_be_learned(row: Loss) -> None:
    scores, labels = example()
    labels[1] = 7
    assert not gradient(row, scores, labels, ignore_index=7)[1].any()
    labels[:] = 7
    grad = gradient(row, scores, labels, ignore_index=7)
    assert grad.isfinite().all() and not grad.any()


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_regions_overlap_and_count_each_for_itself(row: Loss) -> None:
    scores, labels = example((16, 16), 3)
    maps = torch.stack([labels > 0, labels == 2, labels == 1], dim=1)
    value = row.function(scores, maps, sigmoid=True)
    torch.testing.assert_close(row.function(scores, maps.float(), sigmoid=True), value)
    alone = [row.function(scores[:, k : k + 1], maps[:, k : k + 1], sigmoid=True) for k in range(3)]
    torch.testing.assert_close(torch.stack(alone).mean(), value)
    torch.testing.assert_close(
        row.function(scores[:, :1], maps[:, 0], sigmoid=True), alone[0], msg="labels of one region"
    )
    grad = gradient(row, scores, maps.float(), sigmoid=True)
    assert grad.isfinite().all() and grad.flatten(2).abs().sum(dim=2).all()


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_reductions_and_weights(row: Loss) -> None:
    scores, labels = example((16, 16), 3)
    each = row.function(scores, labels, reduction="none")
    assert each.shape == (2,)
    torch.testing.assert_close(row.function(scores, labels), each.mean())
    torch.testing.assert_close(row.function(scores, labels, reduction="sum"), each.sum())
    ones = row.function(scores, labels, weight=torch.ones(3))
    torch.testing.assert_close(ones, each.mean())
    # The scale of all weights is that of the loss.
    twice = row.function(scores, labels, weight=[2, 2, 2])
    torch.testing.assert_close(twice, 2 * ones)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_given_probabilities_are_those_of_scores(row: Loss) -> None:
    scores, labels = example()
    given = row.function(scores.softmax(dim=1), labels, softmax=False)
    if row.name != "scnp":  # which compares scores between pixels, not only within one
        torch.testing.assert_close(given, row.function(scores, labels), rtol=1e-4, atol=1e-5)
    with pytest.warns(UserWarning, match="look like probabilities"):
        row.function(scores.softmax(dim=1), labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row.function(scores, labels)
        row.function(torch.zeros_like(scores), labels)


COMPILED = """
import torch
from geo3d.topology.losses.catalogue import LOSSES
generator = torch.Generator().manual_seed(0)
scores = torch.randn(2, 2, 16, 16, generator=generator)
labels = torch.randint(0, 2, (2, 16, 16), generator=generator)
for name, row in LOSSES.items():
    eager, compiled = (scores.clone().requires_grad_() for _ in range(2))
    (row.function(2 * eager, labels) + eager.mean()).backward()
    step = torch.compile(lambda z, y: row.function(2 * z, y) + z.mean(), backend="aot_eager")
    step(compiled, labels).backward()
    torch.testing.assert_close(compiled.grad, eager.grad)
    alone = torch.compile(row.function, backend="aot_eager")
    torch.testing.assert_close(alone(scores, labels), row.function(scores, labels))
    print(name)
"""


def test_every_loss_works_inside_compiled_code() -> None:
    """In a process of its own: the tests' run-time type checks cannot be traced.

    Case `compile_loss`.
    """
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == NAMES, done.stderr[-2000:]


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_autocast_changes_nothing(row: Loss) -> None:
    scores, labels = example()
    with torch.autocast("cpu", torch.bfloat16):
        value = row.function(scores, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, row.function(scores, labels))


def test_distributed_training_takes_any_loss(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        plain = torch.nn.Conv2d(1, 2, 3, padding=1)
        network = torch.nn.parallel.DistributedDataParallel(plain)
        images, labels = torch.randn(2, 1, 12, 12), torch.randint(0, 2, (2, 12, 12))
        for row in ROWS:
            network.zero_grad()
            row.function(network(images), labels).backward()
            assert plain.weight.grad is not None and plain.weight.grad.abs().sum() > 0
    finally:
        torch.distributed.destroy_process_group()


def test_the_background_is_judged_where_asked() -> None:
    scores, labels = example()
    swapped, other = scores.flip(1), 1 - labels
    for include in (True, False):
        here = cl_dice_loss(scores, labels, alpha=1, include_background=include)
        assert here.isfinite()
    both = cl_dice_loss(scores, labels, alpha=1, include_background=True)
    one = cl_dice_loss(scores, labels, alpha=1)
    two = cl_dice_loss(swapped, other, alpha=1)
    torch.testing.assert_close(both, (one + two) / 2)
    torch.testing.assert_close(
        dice_term(scores, labels),
        (
            dice_term(scores, labels, include_background=False)
            + dice_term(swapped, other, include_background=False)
        )
        / 2,
    )
    few = dice_term(scores, labels, include_background=False, weight=[3.0])
    torch.testing.assert_close(few, 3 * dice_term(scores, labels, include_background=False))


def test_lengths_follow_the_spacing() -> None:
    """A picture with every row doubled at half the height is the picture."""
    scores, labels = example((12, 12))
    tall = scores.repeat_interleave(2, dim=2), labels.repeat_interleave(2, dim=1)
    plain = LOSSES["region_wise"].function(scores, labels, spacing=(1, 1))
    assert LOSSES["region_wise"].function(scores, labels, spacing=(0.3, 0.3)) == plain
    assert LOSSES["region_wise"].function(scores, labels, spacing=(1, 5)) != plain
    near = LOSSES["region_wise"].function(*tall, spacing=(0.5, 1))
    far = LOSSES["region_wise"].function(*tall, spacing=(1, 1))
    assert abs(near - plain) < abs(far - plain)
    volume, masks = example((3, 8, 9))
    for name in ("cl_dice", "skeleton_recall", "cb_dice", "scnp", "warping"):
        value = LOSSES[name].function(volume, masks, spacing=(4, 1, 1))
        grad = gradient(LOSSES[name], volume, masks, spacing=(4, 1, 1))
        assert value.isfinite() and grad.isfinite().all() and grad.any()


def test_a_vessel_across_thick_slices_has_a_centreline() -> None:
    """5 mm wide, in slices of 5 mm: one voxel high, and yet no sheet."""
    labels = torch.zeros(1, 3, 13, 30, dtype=torch.long)
    labels[:, 1, 4:9, 2:28] = 1
    found = labels.float()
    found[:, :, 5:8, 14:17] = 0  # a hole through the middle of the vessel, its rims stand
    scores = torch.stack([-8 * (2 * found - 1), 8 * (2 * found - 1)], dim=1)
    flat = cl_dice_loss(scores, labels, alpha=1, spacing=(1, 1, 1))
    long = cl_dice_loss(scores, labels, alpha=1, spacing=(5, 1, 1))
    assert long > 1.3 * flat


def test_bad_options_are_named() -> None:
    scores, labels = example()
    bad: dict[str, dict[str, object]] = {
        "loss.bad_activation": {"sigmoid": True, "softmax": True},
        "loss.bad_reduction": {"reduction": "median"},
        "loss.bad_weights": {"weight": [1.0]},
        "loss.bad_spacing": {"spacing": (1, 0)},
        "loss.wrong_mask": {"mask": torch.ones(2, 3, 18, 20)},
        "loss.unknown_option": {"ignore": 3},
        "loss.not_probabilities": {"softmax": False},
    }
    for code, options in bad.items():
        with pytest.raises(Geo3dError) as caught:
            ce_dice_loss(scores, labels, **options)  # pyright: ignore
        assert caught.value.code == code
    with pytest.raises(Geo3dError) as caught:
        ce_dice_loss(scores[:, :1], labels)
    assert caught.value.code == "loss.wrong_shape" and "sigmoid=True" in str(caught.value)
    with pytest.raises(Geo3dError) as caught:
        cl_dice_loss(scores, labels, compat=True, ignore_index=1)
    assert caught.value.code == "loss.not_published"
    maps = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1)
    with pytest.raises(Geo3dError) as caught:
        ce_dice_loss(scores, maps, to_onehot_y=True)
    assert caught.value.code == "loss.wrong_target"
    torch.testing.assert_close(ce_dice_loss(scores, maps), ce_dice_loss(scores, labels))
    torch.testing.assert_close(
        ce_dice_loss(scores, labels[:, None].float(), to_onehot_y=True),
        ce_dice_loss(scores, labels),
    )


def test_cross_entropy_is_that_of_torch() -> None:
    scores, labels = example()
    labels[:, :3] = 9
    mine = cross_entropy(scores, labels, ignore_index=9)
    torch.testing.assert_close(
        mine, torch.nn.functional.cross_entropy(scores, labels, ignore_index=9)
    )
    maps = (torch.rand(2, 2, 18, 20, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    torch.testing.assert_close(
        cross_entropy(scores, maps, sigmoid=True),
        torch.nn.functional.binary_cross_entropy_with_logits(scores, maps),
    )
    assert np.isfinite(float(mine))
