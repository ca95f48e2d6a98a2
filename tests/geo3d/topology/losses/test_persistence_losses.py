"""TopoLoss, Betti matching and persistence losses: hand-worked values, invariances, repairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from geo3d.errors import ConfigError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import Pixels
from geo3d.topology.losses.betti_matching import (
    AREA,
    betti_matching_cost,
    betti_matching_loss,
)
from geo3d.topology.losses.features import cut_patches, find_features
from geo3d.topology.losses.inputs import probabilities
from geo3d.topology.losses.overlap import ce_dice_loss, cross_entropy, dice_term
from geo3d.topology.losses.persistent import (
    published_term,
    topo_grad_loss,
    topo_loss,
    topo_term,
)


def topo_grad_term(z: Tensor, y: Tensor, **settings: Any) -> Tensor:
    """Return the cost alone: what a weight of one adds."""
    return topo_grad_loss(z, y, lambd=1.0, **settings) - ce_dice_loss(z, y)


def scores(u: Tensor) -> Tensor:
    """Return two-class scores whose foreground probability is u (*space)."""
    return torch.stack([torch.zeros_like(u), torch.logit(u)])[None]


def smooth(seed: int, n_classes: int = 2, space: tuple[int, ...] = (16, 24)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    pool = torch.nn.functional.avg_pool2d if len(space) == 2 else torch.nn.functional.avg_pool3d
    return pool(torch.randn(2, n_classes, *space, generator=generator), 3, 1, 1) * 5


PEAKS = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.1]], dtype=torch.float64)
RING = torch.tensor([[0.9, 0.9, 0.9], [0.7, 0.2, 0.9], [0.9, 0.9, 0.9]], dtype=torch.float64)
ONE = torch.tensor([[[0, 1, 1, 1, 0]]])
TWO = torch.tensor([[[0, 1, 0, 1, 0]]])
LOOP = torch.tensor([[[1, 1, 1], [1, 0, 1], [1, 1, 1]]])


def test_topo_loss_by_hand() -> None:
    stays = (1 - 0.9) ** 2
    one, two = (topo_term(scores(PEAKS), label, None) * 5 for label in (ONE, TWO))
    assert one.item() == pytest.approx(stays + (0.8 - 0.3) ** 2)
    assert two.item() == pytest.approx(stays + (1 - 0.8) ** 2 + 0.3**2)
    none = topo_term(scores(PEAKS), torch.zeros_like(ONE), None) * 5
    assert none.item() == pytest.approx(0.9**2 + (0.8 - 0.3) ** 2)
    for pixels in ("cells", "vertices"):
        term = topo_term(scores(RING), LOOP, None, pixels=pixels) * 9
        assert term.item() == pytest.approx(stays + (1 - 0.7) ** 2 + 0.2**2)
    filled = topo_term(scores(RING), torch.ones_like(LOOP), None, (1,)) * 9
    assert filled.item() == pytest.approx((0.7 - 0.2) ** 2)
    assert topo_term(scores(RING), torch.ones_like(LOOP), None, (1,), minimum=0.6).item() == 0
    value = topo_loss(scores(PEAKS), ONE, lambd=3.0, patch=None)
    expected = cross_entropy(scores(PEAKS), ONE) + 0.6 * one
    assert value.item() == pytest.approx(expected.item())


def test_topo_grad_by_hand() -> None:
    per = AREA / 5
    one, two = (topo_grad_term(scores(PEAKS), label) / per for label in (ONE, TWO))
    assert one.item() == pytest.approx(0.1 + 0.5)
    assert two.item() == pytest.approx(0.1 + 0.5)
    three = topo_grad_term(scores(PEAKS), ONE, betti=(3, 1)) / per
    assert three.item() == pytest.approx(0.1 + 0.5 + 1 + 1)
    ring = topo_grad_term(scores(RING), LOOP) / (AREA / 9)
    assert ring.item() == pytest.approx(0.1 + 0.5)
    assert topo_grad_term(scores(RING), LOOP, betti=(0,), dimensions=(1,)).item() > 0


def test_betti_matching_by_hand() -> None:
    u = PEAKS[None]
    truth = ONE.double()
    # The component that stays is matched: 0.9 and 1 at birth; the other peak is alone.
    cost = betti_matching_cost(u, truth, relative=False)
    assert cost.item() == pytest.approx(2 * 0.1**2 + 0.5**2)
    cost = betti_matching_cost(u, TWO.double(), relative=False)
    assert cost.item() == pytest.approx(2 * 0.1**2 + 2 * (0.2**2 + 0.3**2))
    cost = betti_matching_cost(RING[None], LOOP.double(), relative=False)
    assert cost.item() == pytest.approx(2 * 0.1**2 + 2 * (0.3**2 + 0.2**2))
    # A frame of 0.9 makes holes at both ends, from 0.9 to 0.1 (in the truth from 1 to 0), and one
    # between the peaks, from 0.8 to 0.3, which the truth does not have.
    framed = betti_matching_cost(u, truth, relative=True, pixels="vertices")
    holes = 2 * 2 * (0.1**2 + 0.1**2) + 0.5**2
    assert framed.item() == pytest.approx(2 * 0.1**2 + holes)
    value = betti_matching_loss(scores(PEAKS), ONE, lambd=2.0, relative=False)
    expected = dice_term(scores(PEAKS), ONE) + 2 * (2 * 0.1**2 + 0.5**2) * AREA / 5
    assert value.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("pixels", ["cells", "vertices"])
def test_a_map_matches_itself(pixels: Pixels) -> None:
    for space in ((9, 10), (5, 6, 4)):
        u = probabilities(smooth(1, space=space).double())[:, 1]
        for relative in (False, True):
            cost = betti_matching_cost(u, u, pixels=pixels, relative=relative)
            assert cost.item() == 0


@pytest.mark.parametrize("n_classes", [2, 3])
def test_mirrored_and_transposed_images_cost_the_same(n_classes: int) -> None:
    logits, soft = smooth(2, n_classes).double(), probabilities(smooth(3, n_classes).double())
    labels = soft.argmax(dim=1)
    for turn in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.transpose(-1, -2)):
        other = turn(logits).contiguous(), turn(labels).contiguous()
        for patch in (8, None):
            found, value = topo_loss(*other, patch=patch), topo_loss(logits, labels, patch=patch)
            torch.testing.assert_close(found, value)
        torch.testing.assert_close(topo_grad_loss(*other), topo_grad_loss(logits, labels))
        found = betti_matching_loss(turn(logits), turn(soft))
        torch.testing.assert_close(found, betti_matching_loss(logits, soft))


def test_patches_are_judged_one_by_one() -> None:
    logits = smooth(4, space=(11, 17)).double()
    labels = (smooth(5, space=(11, 17))[:, 0] > 0).long()
    whole = topo_term(logits, labels, 5) * labels.numel()
    parts = torch.zeros((), dtype=torch.float64)
    for i in range(0, 11, 5):
        for j in range(0, 17, 5):
            box = (slice(i, i + 5), slice(j, j + 5))
            cut = labels[:, box[0], box[1]]
            parts = parts + topo_term(logits[:, :, box[0], box[1]], cut, None) * cut.numel()
    torch.testing.assert_close(whole, parts)


def test_unequal_patches_are_scrambled_as_published() -> None:
    plain, scrambled = (cut_patches((1, 4, 5), 3, scrambled=s) for s in (False, True))
    assert plain[1].tolist() == [[3, 4, -1], [8, 9, -1], [13, 14, -1]]
    # The row-by-row list 3 4 8 9 13 14 read column by column.
    assert scrambled[1].tolist() == [[3, 9, -1], [4, 13, -1], [8, 14, -1]]
    assert np.array_equal(plain[0].T, scrambled[0])


def test_compat_works_on_volumes() -> None:
    logits = smooth(6, space=(6, 7, 8)).requires_grad_()
    labels = torch.rand(2, 6, 7, 8, generator=torch.Generator().manual_seed(0)) > 0.1
    value = published_term(logits, labels, 4)
    value.backward()
    assert value > 0 and logits.grad is not None and logits.grad.isfinite().all()


def test_features_of_a_volume() -> None:
    volume = np.zeros((1, 5, 7, 7), dtype=np.float32)
    volume[0, 1:4, 1:6, 1:6] = 0.9
    volume[0, 1:4, 3, 3] = 0.2
    volume[0, 2, 1, 3] = 0.6
    patches = cut_patches(volume.shape, None)
    components, tunnels, cavities = find_features(volume, patches, (0, 1, 2))
    assert components.birth.tolist() == [np.float32(0.9)] and components.death_at.tolist() == [-1]
    assert len(cavities.patch) == 0
    assert tunnels.persistence.tolist() == pytest.approx([0.9 - 0.2])
    volume[0, 1, 3, 3] = volume[0, 3, 3, 3] = 0.7
    _, tunnels, cavities = find_features(volume, patches, (0, 1, 2))
    assert cavities.persistence.tolist() == pytest.approx([0.7 - 0.2])
    assert tunnels.persistence.tolist() == pytest.approx([0.9 - 0.7])
    cut = find_features(volume, cut_patches(volume.shape, 4), (1,))[0]
    assert np.all(cut.patch < 8) and np.all(cut.birth > cut.death)


def repaired(logits: Tensor, labels: Tensor, loss: object, steps: int, rate: float) -> np.ndarray:
    z = logits.clone().requires_grad_()
    for _ in range(steps):
        z.grad = None
        loss(z, labels).backward()  # type: ignore[operator]
        assert z.grad is not None
        with torch.no_grad():
            z -= rate * z.grad / z.grad.abs().max().clamp(min=1e-6)
    return (z.detach()[0, 1] > z.detach()[0, 0]).numpy()


TERMS = {
    "topo_loss": lambda z, y: topo_term(z, y, None),
    "topo_grad": lambda z, y: topo_grad_term(z, y),
    "betti_matching": lambda z, y: betti_matching_cost(
        probabilities(z)[:, 1], y.float(), relative=False
    ),
}


@pytest.mark.parametrize("name", TERMS)
def test_descent_on_the_term_alone_closes_a_gap_and_opens_a_bridge(name: str) -> None:
    noise = 0.02 * torch.randn(12, 16, generator=torch.Generator().manual_seed(7))
    labels = torch.zeros(1, 12, 16, dtype=torch.long)
    labels[0, 5:7, 2:14] = 1
    u = torch.where(labels[0] == 1, 0.85, 0.15) + noise
    u[5:7, 7:9] = 0.3 + noise[5:7, 7:9]
    mask = repaired(scores(u), labels, TERMS[name], 70, 0.2)
    assert betti_numbers(u.numpy() > 0.5) == (2, 0) and betti_numbers(mask) == (1, 0)
    labels = torch.zeros(1, 12, 16, dtype=torch.long)
    labels[0, 2:4, 2:14] = labels[0, 8:10, 2:14] = 1
    u = torch.where(labels[0] == 1, 0.85, 0.15) + noise
    u[4:8, 7] = 0.7 + noise[4:8, 7]
    mask = repaired(scores(u), labels, TERMS[name], 70, 0.2)
    assert betti_numbers(u.numpy() > 0.5) == (1, 0) and betti_numbers(mask) == (2, 0)


def test_random_windows() -> None:
    logits, labels = smooth(8, space=(50, 60)), (smooth(9, space=(50, 60))[:, 0] > 0).long()
    values = [
        betti_matching_loss(
            logits, labels, windows=2, generator=torch.Generator().manual_seed(seed), compat=True
        )
        for seed in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]
    small = logits[..., :20, :30], labels[..., :20, :30]
    generator = torch.Generator().manual_seed(0)
    cut = betti_matching_loss(*small, windows=1, generator=generator)
    torch.testing.assert_close(cut, betti_matching_loss(*small))


def test_errors() -> None:
    logits, labels = smooth(10), torch.zeros(2, 16, 24, dtype=torch.long)
    with pytest.raises(ConfigError, match="bad_patch"):
        topo_loss(logits, labels, patch=1)
    with pytest.raises(ConfigError, match="bad_dimensions"):
        topo_loss(logits, labels, dimensions=(2,))
    with pytest.raises(ConfigError, match="bad_betti"):
        topo_grad_loss(logits, labels, betti=(1,))
    with pytest.raises(ConfigError, match="bad_betti"):
        topo_grad_loss(logits, labels, betti=(1, -1))
    with pytest.raises(ConfigError, match="bad_windows"):
        betti_matching_loss(logits, labels, windows=1)
    with pytest.raises(ConfigError, match="bad_windows"):
        betti_matching_loss(logits, labels, windows=0, generator=torch.Generator())
