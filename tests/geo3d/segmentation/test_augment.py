"""The random changes of training images.

RandHue against Python's colour conversion and its published rule.
"""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from geo3d.errors import ConfigError
from geo3d.segmentation.augment import augment, published_transforms, random_hue, set_hue


def pair(side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an image whose every channel is its target, noise-free."""
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


def test_images_and_masks_keep_type_size_and_values() -> None:
    image, target = pair()
    before = image.clone()
    for seed in range(40):
        changed, wanted = augment(image, target, seeded(seed))
        assert type(changed) is torch.Tensor and type(wanted) is torch.Tensor
        assert changed.shape == image.shape and changed.dtype == torch.float32
        assert set(wanted.unique().tolist()) <= {0.0, 1.0}
        assert changed.isfinite().all()
    assert torch.equal(image, before)


def test_geometry_moves_image_and_mask_alike() -> None:
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


def random_image(seed: int = 0) -> torch.Tensor:
    values = torch.rand((3, 5, 7), generator=torch.Generator().manual_seed(seed))
    # Some pixel is black and some white, so that scaling to [0, 1] changes nothing.
    values[:, 0, 0], values[:, 0, 1] = 0, 1
    return values


@pytest.mark.parametrize("hue", [0.0, 0.1, 0.2, 1 / 3, 0.4, 0.6, 0.8, 0.999])
def test_agrees_with_colorsys(hue: float) -> None:
    image = random_image()
    found = set_hue(image, hue, 0.1, -0.2)
    for y in range(5):
        for x in range(7):
            _, s, v = colorsys.rgb_to_hsv(*image[:, y, x].tolist())
            s, v = min(max(s + 0.1, 0), 1), min(max(v - 0.2, 0), 1)
            wanted = colorsys.hsv_to_rgb(hue, s, v)
            np.testing.assert_allclose(found[:, y, x].numpy(), wanted, atol=2e-6)


def test_the_scale_does_not_matter() -> None:
    image = random_image()
    moved = set_hue(image * 40 - 7, 0.3, 0.1, 0.1)
    torch.testing.assert_close(moved, set_hue(image, 0.3, 0.1, 0.1) * 40 - 7, atol=1e-4, rtol=0)


def test_setting_the_hue_twice_is_setting_it_once() -> None:
    once = set_hue(random_image(), 0.7)
    torch.testing.assert_close(set_hue(once, 0.7), once, atol=1e-5, rtol=0)


def test_grey_stays_grey_where_saturation_is_not_moved() -> None:
    grey = torch.linspace(0, 1, 12).reshape(1, 3, 4).expand(3, 3, 4)
    torch.testing.assert_close(set_hue(grey, 0.4), grey.contiguous())


def test_an_image_of_one_value_stays_or_is_nan_as_published() -> None:
    flat = torch.full((3, 2, 2), 5.0)
    torch.testing.assert_close(random_hue(flat, torch.Generator()), flat)
    assert random_hue(flat, torch.Generator(), compat=True).isnan().all()


def test_published_changes_only_grow_and_ours_go_both_ways() -> None:
    image = random_image()
    mean = image.amax(dim=0).mean()

    def change(seed: int, compat: bool) -> float:
        generator = torch.Generator().manual_seed(seed)
        return float(random_hue(image, generator, compat=compat).amax(dim=0).mean() - mean)

    assert min(change(seed, True) for seed in range(12)) >= 0
    ours = [change(seed, False) for seed in range(12)]
    assert min(ours) < 0 < max(ours)


def test_only_the_given_generator_is_used() -> None:
    before = torch.random.get_rng_state()
    first = random_hue(random_image(), torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.testing.assert_close(first, random_hue(random_image(), torch.Generator().manual_seed(1)))
