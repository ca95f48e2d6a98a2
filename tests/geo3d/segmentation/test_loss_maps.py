"""loss gradient maps: where they lie, their sign, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.errors import ConfigError, ShapeError
from geo3d.segmentation.loss_maps import (
    ADD_COLOR,
    REMOVE_COLOR,
    cleaned_label,
    draw_loss_map,
    loss_gradient_map,
    losses_with_maps,
)
from geo3d.segmentation.loss_names import LOSS_MAP_HINTS
from geo3d.topology.betti import betti_numbers


def wall() -> tuple[np.ndarray, np.ndarray]:
    """Return a label (a bar) and a prediction with a gap in it and a stray blob."""
    label = np.zeros((48, 64), bool)
    label[20:28, 4:60] = True
    probability = np.where(label, 0.9, 0.1)
    probability[20:28, 30:33] = 0.2
    probability[40:43, 40:43] = 0.8
    return label, probability


@pytest.mark.parametrize("loss", ["ce_dice", "cl_dice", "skeleton_recall"])
def test_a_loss_wants_the_gap_filled_and_the_blob_gone(loss: str) -> None:
    label, probability = wall()
    found = loss_gradient_map(probability, label, loss)
    assert found[20:28, 30:33].sum() > 0
    assert found[40:43, 40:43].sum() <= 0


@pytest.mark.parametrize("loss", losses_with_maps())
def test_every_loss_can_be_asked(loss: str) -> None:
    label, probability = wall()
    found = loss_gradient_map(probability, label, loss)
    assert found.shape == label.shape
    assert np.abs(found).max() > 0


def test_a_perfect_prediction_has_hardly_a_gradient() -> None:
    label, probability = wall()
    bad = np.abs(loss_gradient_map(probability, label, "ce_dice")).sum()
    assert np.abs(loss_gradient_map(label.astype(float), label, "ce_dice")).sum() < 0.01 * bad


def test_the_image_is_blue_in_the_gap_and_red_on_the_blob() -> None:
    label, probability = wall()
    image = np.full((*label.shape, 3), 120, np.uint8)
    drawn = draw_loss_map(image, loss_gradient_map(probability, label, "ce_dice")).astype(float)

    def near(pixel: np.ndarray, color: np.ndarray) -> bool:
        return float(np.abs(pixel - color).max()) < 40

    assert near(drawn[24, 31], ADD_COLOR)
    assert near(drawn[41, 41], REMOVE_COLOR)
    assert not near(drawn[2, 2], ADD_COLOR)
    nothing = draw_loss_map(image, np.zeros(label.shape, np.float32))
    assert (nothing == 170).all()


def test_a_cleaned_label_has_no_small_pieces() -> None:
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    mask[20:40, 20:40] = False
    mask[12:14, 12:14] = False
    mask[55, 55] = True
    assert betti_numbers(mask) == (2, 2)
    cleaned = cleaned_label(mask)
    assert betti_numbers(cleaned) == (1, 1)
    assert cleaned[12, 12] and not cleaned[55, 55] and not cleaned[30, 30]


def test_what_does_not_fit_is_refused() -> None:
    label, probability = wall()
    with pytest.raises(ConfigError) as caught:
        loss_gradient_map(probability, label, "nonsense")
    assert caught.value.code == "loss_maps.unknown_loss"
    with pytest.raises(ShapeError) as caught:
        loss_gradient_map(probability[1:], label, "ce_dice")
    assert caught.value.code == "loss_maps.unequal_sizes"


def test_the_list_without_torch_is_complete() -> None:
    assert set(LOSS_MAP_HINTS) == set(losses_with_maps())
