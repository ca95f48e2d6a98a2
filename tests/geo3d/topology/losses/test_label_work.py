"""Work on labels: remembered while the target stays the same, in threads, exact distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from geo3d.topology.losses.catalogue import LOSSES
from geo3d.topology.losses.label_work import in_threads, once_per_target
from geo3d.topology.losses.skeleton_kernels import depths_at


class Counted:
    """A function of a target that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.known = once_per_target(self.total)

    def total(self, target: Tensor, factor: int = 1) -> int:
        """Return the sum times a factor."""
        self.calls += 1
        return factor * int(target.sum())


def test_results_are_remembered_until_something_changes() -> None:
    counted = Counted()
    target = torch.ones(5)
    assert [counted.known(target) for _ in range(3)] == [5, 5, 5] and counted.calls == 1
    assert counted.known(target, 2) == counted.known(target, 2) == 10 and counted.calls == 2
    assert counted.known(target, factor=3) == 15 and counted.calls == 3
    target[0] = 7
    assert counted.known(target, factor=3) == 33 and counted.calls == 4
    assert counted.known(target.clone(), factor=3) == 33 and counted.calls == 5


def test_a_target_that_is_gone_is_forgotten() -> None:
    counted = Counted()
    for number in range(4):
        target = torch.full((3,), number)
        assert counted.known(target) == 3 * number
        del target
    with torch.inference_mode():
        frozen = torch.ones(2)
        assert counted.known(frozen) == counted.known(frozen) == 2


@pytest.mark.parametrize("name", ["cl_dice", "skeleton_recall", "cb_dice"])
def test_a_changed_target_changes_the_loss(name: str) -> None:
    scores = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(1, 16, 16, dtype=torch.long)
    target[:, 4:9, 2:14] = 1
    before = LOSSES[name].function(scores, target)
    target[:, 4:9, 7] = 0
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
