"""Golden cases of TopoLoss and of Betti matching."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from geo3d.topology.losses.betti_matching import betti_matching_cost
from geo3d.topology.losses.inputs import one_hot, probabilities
from geo3d.topology.losses.persistent import published_maps, topo_loss
from geo3d.topology.matching import match_features

SETTINGS = {
    "TopoLoss": {"lambd": 100.0, "patch": 50},
    "TopoLoss_32": {"lambd": 10.0, "patch": 32},
    "TopoLoss_off": {"lambd": 0.0, "patch": 50},
}


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
    return np.unpackbits(packed, axis=-1)[..., :width]


def scores_of(path: Path) -> tuple[Tensor, Tensor]:
    """Return scores and labels of a case."""
    case = np.load(path)
    labels = unpack(case["label"], case["logits"].shape[-1])
    scores = torch.from_numpy(case["logits"]).requires_grad_()
    return scores, torch.from_numpy(labels.astype(np.int64))


def published(name: str, scores: Tensor, target: Tensor) -> Tensor:
    settings = SETTINGS[name]
    return topo_loss(
        scores, target, lambd=settings["lambd"], patch=int(settings["patch"]), compat=True
    )


def check_values(path: Path) -> None:
    """Compare the values of all cases."""
    for row in json.loads(path.read_text(encoding="utf-8")):
        scores, labels = scores_of(path.parent / f"loss_{row['case']}.npz")
        for name in SETTINGS.keys() & row["losses"].keys():
            expected = row["losses"][name]["value"]
            value = published(name, scores, labels).item()
            assert value == pytest.approx(expected, rel=1e-6), (row["case"], name)


def check_gradients(path: Path) -> None:
    """Compare gradients and which pixels are pushed to what."""
    case = np.load(path)
    for name in (name for name in SETTINGS if f"grad_{name}" in case):
        scores, labels = scores_of(path)
        published(name, scores, labels).backward()
        assert scores.grad is not None
        np.testing.assert_allclose(scores.grad, case[f"grad_{name}"], rtol=1e-4, atol=1e-8)
        u = torch.softmax(probabilities(scores.detach()), dim=1)[:, 1]
        patch = int(SETTINGS[name]["patch"])
        weight, levels = published_maps(u, one_hot(labels, scores)[:, 0], patch)
        expected = unpack(case[f"topo_weight_{patch}"], u.shape[-1])
        np.testing.assert_array_equal(weight, expected)
        np.testing.assert_allclose(levels, case[f"topo_ref_{patch}"], atol=1e-6)


def check_soft_targets(path: Path) -> None:
    """Compare values and sizes of gradients for soft targets."""
    teachers = np.load(path)
    for row in json.loads(path.with_suffix(".json").read_text(encoding="utf-8")):
        if row["loss"] not in SETTINGS:
            continue
        scores, _ = scores_of(path.parent / f"loss_{row['case']}.npz")
        soft = torch.softmax(torch.from_numpy(teachers[f"teacher_logits_{row['case']}"]), dim=1)
        value = published(row["loss"], scores, soft)
        value.backward()
        assert value.item() == pytest.approx(row["value"], rel=1e-6)
        assert scores.grad is not None
        assert float(scores.grad.norm()) == pytest.approx(row["grad_norm"], rel=1e-5)


def check_matching(path: Path) -> None:
    """Compare values, gradients and the numbers of matched and unmatched features."""
    case = np.load(path)
    for row in json.loads(path.with_suffix(".json").read_text(encoding="utf-8")):
        k, size, relative = row["patch"], row["size"], row["relative"]
        scores, _ = scores_of(path.parent / f"loss_{row['case']}.npz")
        box = (slice(None), slice(row["y"], row["y"] + size), slice(row["x"], row["x"] + size))
        window = scores.detach()[row["item"]][box].clone().requires_grad_()
        u = probabilities(window[None])[:, 1]
        np.testing.assert_allclose(u[0].detach(), case[f"prob_{k}"], atol=1e-6)
        label = torch.from_numpy(unpack(case[f"label_{k}"], size).astype(np.float32))[None]
        cost = betti_matching_cost(u, label, pixels="vertices", relative=relative, loose=True)
        cost.backward()
        assert cost.item() == pytest.approx(row["value"], rel=1e-6)
        assert window.grad is not None
        expected = case[f"grad_{k}_rel{int(relative)}"]
        np.testing.assert_allclose(window.grad, expected, rtol=1e-4, atol=1e-7)
        u, label = (_framed(each, relative) for each in (u.detach(), label))
        found = match_features(u, label, "vertices", loose=True)
        assert [len(each.matched) for each in found] == row["matched"]
        assert [len(each.predicted) for each in found] == row["unmatched_pred"]
        assert [len(each.true) for each in found] == row["unmatched_true"]


def _framed(maps: Tensor, relative: bool) -> np.ndarray:
    values = maps.numpy()[0]
    return (np.pad(values, 1, constant_values=values.max()) if relative else values)[None]
