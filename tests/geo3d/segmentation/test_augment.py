"""The random changes of training pictures."""

from __future__ import annotations

import pytest
import torch

from geo3d.errors import ConfigError
from geo3d.segmentation.augment import augment, published_transforms


def pair(side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a picture whose every channel is its target, noise-free."""
    target = (torch.arange(side) // 5 % 2).float().expand(side, side).contiguous()[None]
    return (target * 4 - 2).repeat(3, 1, 1), target


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    image, target = pair()
    first = augment(image, target, seeded(1))
    again = augment(image, target, seeded(1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    results = {float(augment(image, target, seeded(s))[0].sum()) for s in range(8)}
    assert len(results) > 3


def test_pictures_and_masks_keep_type_size_and_values() -> None:
    image, target = pair()
    before = image.clone()
    for seed in range(40):
        changed, wanted = augment(image, target, seeded(seed))
        assert type(changed) is torch.Tensor and type(wanted) is torch.Tensor
        assert changed.shape == image.shape and changed.dtype == torch.float32
        assert set(wanted.unique().tolist()) <= {0.0, 1.0}
        assert changed.isfinite().all()
    assert torch.equal(image, before)


def test_geometry_moves_picture_and_mask_alike() -> None:
    image, target = pair(64)
    for seed in range(40):
        changed, wanted = augment(image, target, seeded(seed))
        bright, dark = changed[:, wanted[0] == 1].mean(), changed[:, wanted[0] == 0].mean()
        assert bright - dark > 2


def test_flips_only_reverse_axes() -> None:
    image, target = pair()
    image = image + torch.arange(32.0)[:, None]
    allowed = [image, image.flip(1), image.flip(2)]
    found = [augment(image, target, seeded(seed), "flips")[0] for seed in range(20)]
    kinds = [[torch.equal(f, a) for a in allowed].index(True) for f in found]
    assert set(kinds) == {0, 1, 2}


def test_transforms_fire_independently() -> None:
    # Seeded alike, the first draws would agree, and a rare change would imply all commoner ones.
    target = pair()[1]
    image = torch.randn(3, 32, 32, generator=seeded(0))
    transforms = published_transforms()
    assert len(transforms) == 10
    fired = []
    for seed in range(60):
        seeds = torch.randint(2**31, (10,), generator=seeded(seed)).tolist()
        row = []
        for transform, own in zip(transforms, seeds, strict=True):
            transform.set_random_state(seed=own)
            changed = transform({"image": image.clone(), "target": target.clone()})
            row.append(not torch.equal(changed["image"].as_subclass(torch.Tensor), image))
        fired.append(row)
    rates = torch.tensor(fired).float().mean(dim=0)
    wanted = torch.tensor([0.2, 0.2, 0.1, 0.2, 0.15, 0.15, 0.25, 0.1, 0.1, 0.5])
    assert ((rates - wanted).abs() < 0.2).all()
    assert any(row[2] and not row[9] for row in fired)


def test_soft_targets_and_none() -> None:
    image, target = pair()
    soft = target * 0.6 + 0.2
    for seed in range(10):
        values = augment(image, soft, seeded(seed))[1].unique()
        assert values.min() >= 0.2 - 1e-6 and values.max() <= 0.8 + 1e-6
    same = augment(image, soft, seeded(0), "none")
    assert torch.equal(same[0], image) and torch.equal(same[1], soft)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"augment\.unknown"):
        augment(*pair(), seeded(0), "heavy")
