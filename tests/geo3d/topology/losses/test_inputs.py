"""Inputs of losses: both kinds of target, types, and each refusal.

Work on labels: remembered while the target stays the same, in threads, exact distances.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from geo3d.errors import InputError
from geo3d.topology.losses.catalogue import LOSSES
from geo3d.topology.losses.inputs import (
    hard_labels,
    is_soft,
    one_hot,
    probabilities,
)
from geo3d.topology.losses.memory import in_threads, once_per_content
from geo3d.topology.losses.options import as_batch
from geo3d.topology.losses.skeleton_kernels import depths_at


def check_inputs(scores: Tensor, target: Tensor) -> None:
    """Bring to one form what every loss takes."""
    as_batch(scores, target)


SCORES = torch.zeros(2, 3, 4, 5)
LABELS = torch.arange(40).reshape(2, 4, 5) % 3
VOLUMES = torch.zeros(2, 3, 4, 5, 6)


@pytest.mark.parametrize("target", [LABELS, LABELS[:, None], LABELS[:, None].float()])
def test_labels_in_all_their_forms_mean_the_same(target: Tensor) -> None:
    check_inputs(SCORES, target)
    assert not is_soft(target)
    assert torch.equal(hard_labels(target), LABELS)
    maps = one_hot(target, SCORES)
    assert maps.dtype == torch.float32
    assert torch.equal(maps.argmax(dim=1), LABELS) and (maps.sum(dim=1) == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_soft_targets_pass_through(dtype: torch.dtype) -> None:
    soft = torch.softmax(torch.randn(2, 3, 4, 5), dim=1).to(dtype)
    check_inputs(SCORES.to(dtype), soft)
    assert is_soft(soft)
    torch.testing.assert_close(one_hot(soft, SCORES), soft.float())
    assert torch.equal(hard_labels(soft), soft.argmax(dim=1))


def test_types_of_computation() -> None:
    assert probabilities(SCORES.half()).dtype == torch.float32
    assert probabilities(SCORES.double()).dtype == torch.float64
    assert one_hot(LABELS, SCORES.double()).dtype == torch.float64


def test_volumes_and_booleans() -> None:
    labels = torch.randint(0, 3, (2, 4, 5, 6))
    for target in (labels, labels[:, None], labels[:, None].double(), labels > 0):
        check_inputs(VOLUMES, target)
        assert one_hot(target, VOLUMES).shape == VOLUMES.shape
        assert torch.equal(hard_labels(target), labels.to(target.dtype).long().reshape(2, 4, 5, 6))


@pytest.mark.parametrize("scores", [torch.zeros(2, 3, 4), torch.zeros(2, 1, 4, 5)])
def test_scores_of_other_shapes_are_refused(scores: Tensor) -> None:
    with pytest.raises(InputError) as caught:
        check_inputs(scores, LABELS)
    assert caught.value.code == "loss.wrong_shape"


@pytest.mark.parametrize(
    "target",
    [
        LABELS[:1],
        LABELS[:, :3],
        LABELS.float(),
        LABELS + 1,
        LABELS - 1,
        LABELS[:, None] + 0.5,
        LABELS[:, None] * torch.nan,
        torch.full((2, 3, 4, 5), 0.5),
        torch.full((2, 2, 4, 5), 0.5),
        torch.tensor([2.0, -1.0, 0.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5),
        1 + torch.nn.functional.one_hot(LABELS, 3).movedim(-1, 1),
    ],
)
def test_targets_that_do_not_fit_are_refused(target: Tensor) -> None:
    with pytest.raises(InputError) as caught:
        check_inputs(SCORES, target)
    assert caught.value.code == "loss.wrong_target"


def test_a_flat_volume_needs_its_channel() -> None:
    flat = torch.zeros(2, 3, 1, 5, 6)
    check_inputs(flat, torch.zeros(2, 1, 1, 5, 6, dtype=torch.long))
    with pytest.raises(InputError):
        check_inputs(flat, torch.zeros(2, 1, 5, 6, dtype=torch.long))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    broken = SCORES.clone()
    broken[1, 2, 3, 4] = value
    for scores, target in ((broken, LABELS), (SCORES, broken)):
        with pytest.raises(InputError) as caught:
            check_inputs(scores, target)
        assert caught.value.code == "loss.not_finite"


class Counted:
    """A function of masks that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.known = once_per_content(self.total)

    def total(self, masks: np.ndarray, factor: int = 1) -> int:
        """Return the sum times a factor."""
        self.calls += 1
        return factor * int(masks.sum())


def test_results_are_remembered_until_the_content_changes() -> None:
    counted = Counted()
    masks = np.ones(5)
    assert [counted.known(masks) for _ in range(3)] == [5, 5, 5] and counted.calls == 1
    assert counted.known(masks.copy()) == 5 and counted.calls == 1
    assert counted.known(masks, 2) == counted.known(masks, 2) == 10 and counted.calls == 2
    assert counted.known(masks, factor=3) == 15 and counted.calls == 3
    masks[0] = 7
    assert counted.known(masks, factor=3) == 33 and counted.calls == 4
    assert counted.known(masks.reshape(1, 5), factor=3) == 33 and counted.calls == 5
    assert counted.known(masks.astype(int)[None], factor=3) == 33 and counted.calls == 6


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("how", ["buffer", "data", "in place"])
def test_a_changed_target_changes_the_loss(name: str, how: str) -> None:
    """A label that is refilled behind autograd's back is another label.

    Case `stale_label_cache`.
    """
    scores = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    buffer = np.zeros((1, 16, 16), dtype=np.int64)
    buffer[:, 4:9, 2:14] = 1
    target = torch.from_numpy(buffer)
    before = LOSSES[name].function(scores, target)
    view = {"buffer": torch.from_numpy(buffer), "data": target.data, "in place": target}[how]
    view[:, 4:9, 7] = 0
    view[:, 11:15, 3:6] = 1
    after = LOSSES[name].function(scores, target)
    assert before != after
    torch.testing.assert_close(LOSSES[name].function(scores, target.clone()), after)


def test_threads_keep_the_order() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert in_threads(lambda n: n * n, range(20)) == [n * n for n in range(20)]
            assert in_threads(abs, []) == []
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.999])
def test_depths_are_exact_distances(share: float) -> None:
    noise = np.random.default_rng(3).random((23, 31))
    mask = noise > np.quantile(noise, 1 - share)
    mask[11, 15] = False
    points = np.arange(mask.size)
    expected = np.asarray(ndimage.distance_transform_edt(mask)).ravel()
    np.testing.assert_array_equal(depths_at(mask, points), expected)
