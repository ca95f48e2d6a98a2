"""Weights, rotations, proportions."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.synth.creatures.posing import (
    blend,
    free_rotations,
    limbs_touch,
    pose_transforms,
    random_rotations,
    random_scales,
    scaled_bones,
    skinning_weights,
)
from geo3d.synth.creatures.skeleton import Bone, Plan, mirror_ids
from geo3d.synth.creatures.surface import skin
from geo3d.synth.creatures.templates import quadruped

QUARTER = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
"""A quarter turn about z."""


def chain() -> list[Bone]:
    plan = Plan()
    plan.add("a", "", (1, 0, 0), (0.1, 0.1), start=(0, 0, 0))
    plan.add("b", "a", (1, 0, 0), (0.1, 0.1))
    plan.add("c", "b", (1, 0, 0), (0.1, 0.1))
    return plan.bones


def apply(transform: np.ndarray, point: list[float]) -> np.ndarray:
    return transform[:, :3] @ np.array(point) + transform[:, 3]


def test_a_turned_joint_carries_what_hangs_on_it() -> None:
    still = np.eye(3)
    transforms = pose_transforms(chain(), np.stack([still, QUARTER, still]))
    np.testing.assert_allclose(apply(transforms[0], [1, 0, 0]), [1, 0, 0])
    np.testing.assert_allclose(apply(transforms[1], [2, 0, 0]), [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(apply(transforms[2], [3, 0, 0]), [1, 2, 0], atol=1e-12)
    both = pose_transforms(chain(), np.stack([still, QUARTER, QUARTER]))
    np.testing.assert_allclose(apply(both[2], [3, 0, 0]), [0, 1, 0], atol=1e-12)


def test_blending_is_the_weighted_mean_of_the_maps() -> None:
    transforms = pose_transforms(chain()[:2], np.stack([np.eye(3), QUARTER]))
    moved = blend(np.array([[2.0, 0, 0]]), np.array([[0.25, 0.75]]), transforms)
    np.testing.assert_allclose(moved, [[1.25, 0.75, 0]], atol=1e-12)


def test_scaling_stretches_along_and_across() -> None:
    bones, maps = scaled_bones(chain(), np.array([2.0, 1, 0.5]), np.array([1.0, 3, 1]))
    np.testing.assert_allclose([bone.head[0] for bone in bones], [0, 2, 3])
    assert bones[2].tail[0] == pytest.approx(3.5)
    assert bones[1].radii == pytest.approx((0.3, 0.3))
    np.testing.assert_allclose(apply(maps[1], [1.5, 0.1, 0]), [2.5, 0.3, 0], atol=1e-12)


def test_no_change_is_the_identity() -> None:
    ones = np.ones(3)
    _, maps = scaled_bones(chain(), ones, ones)
    still = pose_transforms(chain(), np.tile(np.eye(3), (3, 1, 1)))
    for transforms in (maps, still):
        np.testing.assert_allclose(transforms, np.tile(np.eye(3, 4), (3, 1, 1)), atol=1e-12)


def test_weights_sum_to_one_and_stay_near_their_bone() -> None:
    bones = [
        Bone("low", -1, np.zeros(3), np.array([0.0, 1, 0]), (0.2, 0.2)),
        Bone("high", 0, np.array([0.0, 1, 0]), np.array([0.0, 2, 0]), (0.2, 0.2)),
    ]
    mesh = skin(bones, 1500).mesh
    weights = skinning_weights(mesh, bones)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert weights.min() >= 0
    height = mesh.vertices[:, 1]
    assert weights[height < 0.5, 0].min() > 0.9 and weights[height > 1.5, 1].min() > 0.9
    middle = np.abs(height - 1) < 0.05
    assert np.abs(weights[middle, 0] - 0.5).max() < 0.2


def test_rotations_respect_limits_and_fold_the_right_side() -> None:
    bones = quadruped(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    knees = [i for i, bone in enumerate(bones) if "shin" in bone.name]
    for _ in range(5):
        turned = random_rotations(bones, rng, 1.0)
        np.testing.assert_allclose(
            turned @ turned.transpose(0, 2, 1), np.tile(np.eye(3), (len(bones), 1, 1)), atol=1e-9
        )
        # a knee only bends one way: about x, backwards, by 0 to 1.5
        angles = np.arctan2(turned[knees, 2, 1], turned[knees, 1, 1])
        assert angles.min() >= 0 and angles.max() <= 1.5
    assert np.array_equal(random_rotations(bones, rng, 0.0), np.tile(np.eye(3), (len(bones), 1, 1)))


def test_scales_are_the_same_on_both_sides() -> None:
    bones = quadruped(np.random.default_rng(0))
    along, across = random_scales(bones, np.random.default_rng(2), 0.2)
    mirror = mirror_ids(bones)
    np.testing.assert_array_equal(along, along[mirror])
    np.testing.assert_array_equal(across, across[mirror])
    assert along.min() >= np.exp(-0.4) and along.max() <= np.exp(0.4)
    assert along.std() > 0.05


def fork(gap: float) -> list[Bone]:
    plan = Plan()
    plan.add("trunk", "", (0, 1, 0), (0.1, 0.1), start=(0, 0, 0))
    plan.add("upper", "trunk", (0.5, 0, 0), (0.1, 0.1), start=(0.1, 0, 0), pair=True)
    for side in ("one", "two"):
        z = gap / 2 if side == "one" else -gap / 2
        plan.add(side, "upper", (0, 0, z), (0.01, 0.01), pair=True)
        plan.add(f"{side}_mid", side, (0.5, 0, 0), (0.1, 0.1), pair=True)
        plan.add(f"{side}_end", f"{side}_mid", (0.5, 0, 0), (0.1, 0.1), pair=True)
    return plan.bones


def test_limbs_that_grow_together_are_noticed() -> None:
    assert limbs_touch(fork(0.22))
    assert not limbs_touch(fork(1.0))


def test_poses_keep_limbs_out_of_each_other() -> None:
    plan = Plan()
    plan.add("trunk", "", (0, 1, 0), (0.1, 0.1), start=(0, 0, 0))
    wide = ((-0.1, -0.1, -3.0), (0.1, 0.1, 3.0))
    plan.add("arm", "trunk", (0.7, 0, 0), (0.1, 0.1), start=(0.05, 0.9, 0), limits=wide, pair=True)
    bones, rng = plan.bones, np.random.default_rng(0)
    for _ in range(20):
        left, right = pose_transforms(bones, free_rotations(bones, rng, 0.7))[1:]
        gap = apply(left, [0.5, 0.9, 0]) - apply(right, [-0.5, 0.9, 0])
        assert np.linalg.norm(gap) > 0.2
