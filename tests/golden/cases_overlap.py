"""Golden cases of the losses of overlap, skeletons and neighbours, and of deep supervision."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.cases_topology import unpack
from torch import Tensor

from geo3d.topology.losses.cb_dice import cb_dice_loss
from geo3d.topology.losses.cl_dice import cl_dice_loss
from geo3d.topology.losses.deep import deep_supervision, head_weights
from geo3d.topology.losses.overlap import (
    ce_dice_loss,
    region_wise_loss,
    scnp_loss,
    worst_neighbour_logits,
)
from geo3d.topology.losses.skeleton_recall import recall_term, skeleton_recall_loss

PUBLISHED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "CEDice": partial(ce_dice_loss, compat=True),
    "CEDice_w": partial(ce_dice_loss, weight=[0.3, 1.7], compat=True),
    "CEDice_l": partial(ce_dice_loss, lambda_ce=0.5, lambda_dice=2.0, compat=True),
    "RegionWise": partial(region_wise_loss, compat=True),
    "clDice": partial(cl_dice_loss, compat=True),
    "clDice_it10": partial(cl_dice_loss, rounds=10, alpha=0.3, compat=True),
    "SkeletonRecall": recall_term,
    "CESkeletonRecall": partial(skeleton_recall_loss, compat=True),
    "cbDice": partial(cb_dice_loss, compat=True),
    "cbDice_a3": partial(cb_dice_loss, alpha=3.0, compat=True),
}
"""The published settings by their names in the files."""


def check_values(path: Path) -> None:
    """Compare every value and gradient norm of these losses in all cases."""
    for case in json.loads(path.read_text("utf-8")):
        maps = np.load(path.with_name(f"loss_{case['case']}.npz"))
        label = label_of(maps)
        for name in sorted(PUBLISHED.keys() & case["losses"].keys()):
            expected = case["losses"][name]
            value, grad = run(PUBLISHED[name], torch.from_numpy(maps["logits"]), label)
            where = f"{case['case']} {name}"
            assert value == pytest.approx(expected["value"], rel=1e-5, abs=1e-6), where
            assert float(grad.norm()) == pytest.approx(expected["grad_norm"], rel=1e-4), where


def check_gradients(path: Path) -> None:
    """Compare gradients of one case pixel by pixel."""
    maps = np.load(path)
    for name, loss in PUBLISHED.items():
        if f"grad_{name}" in maps.files:
            _, grad = run(loss, torch.from_numpy(maps["logits"]), label_of(maps))
            expected = maps[f"grad_{name}"]
            np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-8, err_msg=name)


def check_soft_targets(path: Path) -> None:
    """Compare losses of soft targets, but RegionWise's: its map is undefined there."""
    maps = np.load(path)
    for row in json.loads(path.with_suffix(".json").read_text("utf-8")):
        name, case = row["loss"], row["case"]
        if name not in PUBLISHED:
            continue
        logits = torch.from_numpy(np.load(path.with_name(f"loss_{case}.npz"))["logits"])
        target = torch.softmax(torch.from_numpy(maps[f"teacher_logits_{case}"]), dim=1)
        value, grad = run(PUBLISHED[name], logits, target)
        if name == "RegionWise":
            assert float(grad.norm()) < 1e-9
            continue
        assert value == pytest.approx(row["value"], rel=1e-5), (case, name)
        assert float(grad.norm()) == pytest.approx(row["grad_norm"], rel=1e-4), (case, name)
        if f"grad_{case}_{name}" in maps.files:
            expected = maps[f"grad_{case}_{name}"]
            np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-8, err_msg=name)


def check_deep_supervision(path: Path) -> None:
    """Compare the sum over seven heads and each head's gradient."""
    maps = np.load(path)
    expected = json.loads(path.with_suffix(".json").read_text("utf-8"))
    heads = len(expected["weights"])
    np.testing.assert_allclose(head_weights(heads), expected["weights"], rtol=1e-6)
    for name, row in expected["losses"].items():
        if name not in PUBLISHED:
            continue
        combined = partial(deep_supervision, PUBLISHED[name], compat=True)
        label = torch.from_numpy(maps["label"])
        total, grad = run(combined, torch.from_numpy(maps["heads"]), label)
        assert total == pytest.approx(row["total"], rel=1e-5), name
        norms = grad.transpose(0, 1).flatten(1).norm(dim=1)
        np.testing.assert_allclose(norms, row["head_grad_norms"], rtol=1e-4, err_msg=name)


def check_worst_neighbours(path: Path) -> None:
    """Compare the scores of the worst neighbours and CE+Dice of them."""
    maps = np.load(path)
    for case, row in json.loads(path.with_suffix(".json").read_text("utf-8")).items():
        inputs = np.load(path.with_name(f"loss_{case}.npz"))
        logits, label = torch.from_numpy(inputs["logits"]), label_of(inputs)
        for key in (key for key in row if key.startswith("CEDice_scnp")):
            size, expected = int(key.removeprefix("CEDice_scnp")), row[key]
            worst = worst_neighbour_logits(logits, label, size)
            assert float(worst.double().sum()) == pytest.approx(expected["z_sum"], rel=1e-6)
            value, grad = run(partial(scnp_loss, size=size, compat=True), logits, label)
            assert value == pytest.approx(expected["value"], rel=1e-5)
            assert float(grad.norm()) == pytest.approx(expected["grad_norm"], rel=1e-4)
            if f"scnp{size}_{case}" in maps.files:
                np.testing.assert_array_equal(worst, maps[f"scnp{size}_{case}"])
                gradient = maps[f"scnp{size}_grad_{case}"]
                np.testing.assert_allclose(grad, gradient, rtol=1e-4, atol=1e-8)


def label_of(maps: np.lib.npyio.NpzFile) -> Tensor:
    width = maps["logits"].shape[-1]
    return torch.from_numpy(unpack(maps["label"], width).astype(np.int64))


def run(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor
) -> tuple[float, Tensor]:
    """Return a loss and its gradient with respect to the scores."""
    scores = logits.clone().requires_grad_()
    value = loss(scores, target)
    value.backward()
    assert scores.grad is not None
    return value.item(), scores.grad
