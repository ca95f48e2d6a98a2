"""Modules: the same numbers as functions, MONAI's ways of calling, warm-up, metrics for MONAI."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceLoss

from geo3d.errors import Geo3dError
from geo3d.topology import losses
from geo3d.topology.losses import LOSSES, TopologyLoss, WarmUp, warmed_up
from geo3d.topology.metric_table import METRICS
from geo3d.topology.metrics import betti_errors, betti_matching_errors, cl_dice
from geo3d.topology.monai_metrics import TopologyMetric

EXAMPLE = Path(__file__).resolve().parents[4] / "docs" / "examples" / "train_with_monai.py"
MODULES = {
    thing.function: thing
    for thing in vars(losses).values()
    if isinstance(thing, type) and issubclass(thing, TopologyLoss) and thing is not TopologyLoss
}


def example(space: tuple[int, ...] = (12, 14)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(2, 2, *space, generator=generator)
    return scores, torch.randint(0, 2, (2, 1, *space), generator=generator)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_module(name: str) -> None:
    function = LOSSES[name].function
    assert getattr(losses, function.__name__) is function
    module = MODULES[function](reduction="none", to_onehot_y=True)
    scores, labels = example()
    expected = function(scores, labels, reduction="none")
    torch.testing.assert_close(module(scores, labels.float()), expected)
    mask = torch.ones_like(labels)
    mask[:, :, :3] = 0
    masked = function(scores, labels, reduction="none", mask=mask)
    torch.testing.assert_close(module(scores, labels, mask), masked)
    assert "reduction='none'" in repr(module)
    with pytest.raises(Geo3dError, match="Did you mean sigmoid"):
        MODULES[function](sigmiod=True)


def test_dice_is_that_of_monai() -> None:
    scores, labels = example()
    for include in (True, False):
        options = {"include_background": include, "softmax": True, "to_onehot_y": True}
        mine = losses.CEDiceLoss(lambda_ce=0.0, **options)(scores, labels)
        theirs = DiceLoss(**options, smooth_nr=1e-5, smooth_dr=1e-5)(scores, labels)
        torch.testing.assert_close(1 + mine, theirs)
    maps = torch.cat([labels, 1 - labels], dim=1).float()
    mine = losses.CEDiceLoss(lambda_ce=0.0, sigmoid=True, weight=[0.5, 2.0])(scores, maps)
    theirs = DiceLoss(sigmoid=True, weight=[0.5, 2.0])(scores, maps)
    torch.testing.assert_close(1.25 + mine, theirs)


def test_settings_reach_the_inner_loss() -> None:
    scores, labels = example()
    found = losses.SCNPLoss(loss=losses.cl_dice_loss, alpha=0.2)(scores, labels)
    torch.testing.assert_close(
        found, losses.scnp_loss(scores, labels, loss=losses.cl_dice_loss, alpha=0.2)
    )


def test_a_warm_up_blends_and_spares_the_expensive_part() -> None:
    calls = []
    loss = WarmUp(lambda *_: calls.append(1) or torch.tensor(4.0), lambda *_: torch.tensor(2.0))
    found = []
    for loss.progress in (0.0, 0.7, 0.75, 0.8, 1.0):
        found.append((round(float(loss()), 6), len(calls)))
    assert found == [(2, 0), (2, 0), (3, 1), (4, 2), (4, 3)]
    at_once = WarmUp(loss.loss, loss.before, start=0.5, length=0)
    at_once.progress = 0.5
    assert float(at_once()) == 4
    with pytest.raises(Geo3dError):
        WarmUp(loss.loss, loss.before, start=2)
    with pytest.raises(Geo3dError, match="no loss"):
        warmed_up("clDice")


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_warms_up_with_its_options(name: str) -> None:
    scores, labels = example()
    labels[:, :, :2] = 9
    loss = warmed_up(name, ignore_index=9)
    row = LOSSES[name]
    before = (row.auxiliary or row.function)(scores, labels, ignore_index=9)
    torch.testing.assert_close(loss(scores, labels), before)
    loss.progress = 1.0
    torch.testing.assert_close(loss(scores, labels), row.function(scores, labels, ignore_index=9))


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_masks_are_metrics_of_monai(name: str) -> None:
    rng = np.random.default_rng(0)
    one, two = (torch.from_numpy(rng.random((3, 2, 20, 24)) < 0.6).float() for _ in range(2))
    settings = {"tolerance": 1.0} if name == "surface_dice" else {}
    metric = TopologyMetric(name, **settings)
    metric(y_pred=one[:1], y=two[:1])
    metric(y_pred=one[1:], y=two[1:])
    found = metric.aggregate("none")
    assert len(found) == 3 and found.isfinite().all()
    assert found.shape[2:] == ((len(metric.parts(2)),) if len(metric.parts(2)) > 1 else ())
    torch.testing.assert_close(metric.aggregate(), found.mean(dim=(0, 1)))
    metric.reset()
    with pytest.raises((Geo3dError, ValueError)):
        metric.aggregate()


def test_metric_values_by_hand() -> None:
    ring = np.zeros((1, 1, 5, 12, 12), dtype=bool)
    ring[..., 1:4, 2:10, 2:10] = True
    ring[..., 1:4, 4:8, 4:8] = False
    cut = ring.copy()
    cut[..., 1:4, 2:4, 5:7] = False
    pair = {"y_pred": torch.from_numpy(cut), "y": torch.from_numpy(ring)}
    for name, function in (
        ("betti_errors", betti_errors),
        ("betti_matching_errors", betti_matching_errors),
    ):
        metric = TopologyMetric(name)
        metric(**pair)
        assert metric.parts(3) == ("components", "tunnels", "cavities")
        assert metric.aggregate().tolist() == list(function(cut[0, 0], ring[0, 0])) == [0, 1, 0]
    metric = TopologyMetric("cl_dice")
    metric(**pair)
    assert float(metric.aggregate()) == pytest.approx(cl_dice(cut[0, 0], ring[0, 0]))
    with pytest.raises(Geo3dError):
        TopologyMetric("betti")
    with pytest.raises(Geo3dError):
        metric(y_pred=pair["y"][0, 0], y=pair["y"][0, 0])


def test_the_example_with_monai_learns() -> None:
    train = runpy.run_path(str(EXAMPLE))["train"]
    first, last, errors = train(steps=12)
    assert last < first and errors.shape == (2,)
