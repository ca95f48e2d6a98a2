"""Golden cases of the warping and TOPO losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geo3d.topology.losses.critical import Rule, critical_batch, warping_loss
from geo3d.topology.losses.windows import published_weights, topo_window_loss


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
    return np.unpackbits(packed, axis=-1)[..., :width].astype(bool)


def read_case(path: Path) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the case, its scores, its one-channel scores and its labels."""
    case = np.load(path)
    labels = torch.from_numpy(unpack(case["label"], case["logits"].shape[-1]).astype(np.int64))
    scores, distances = (torch.from_numpy(case[k]).requires_grad_() for k in _SCORES)
    return case, scores, distances, labels


_SCORES = ("logits", "logits_topo")


def check_values(path: Path) -> None:
    """Compare the values of all cases."""
    for row in json.loads(path.read_text(encoding="utf-8")):
        _, scores, distances, labels = read_case(path.parent / f"loss_{row['case']}.npz")
        found = {
            "Warping": warping_loss(scores, labels, compat=True),
            "Warping_off": warping_loss(scores, labels, lambd=0.0, compat=True),
            "MSETopoWin": topo_window_loss(distances, labels, compat=True),
        }
        for name, value in found.items():
            expected = row["losses"][name]["value"]
            assert value.item() == pytest.approx(expected, rel=1e-5), (row["case"], name)


def check_gradients(path: Path) -> None:
    """Compare gradients and the maps behind them."""
    case, scores, distances, labels = read_case(path)
    warping_loss(scores, labels, compat=True).backward()
    topo_window_loss(distances, labels, compat=True).backward()
    for found, name in ((scores, "Warping"), (distances, "MSETopoWin")):
        expected = case[f"grad_{name}"]
        assert found.grad is not None
        np.testing.assert_allclose(found.grad, expected, rtol=1e-4, atol=1e-8, err_msg=name)
    predicted, background = scores.argmax(dim=1) == 1, labels[:, 0] == 0
    critical = critical_batch(predicted, background, "counted 8/8").numpy()
    assert np.array_equal(critical, unpack(case["warp_critical"], critical.shape[-1]))
    y = torch.relu(distances.detach())[:, 0].numpy()
    found = published_weights(y, labels[:, 0].numpy() == 1, 64)
    # Where y is zero the order of equal costs decides, and the loss does not see it.
    np.testing.assert_allclose(found * y, case["topo_weights_n"][:, 0] * y, atol=1e-5)


def check_soft_targets(path: Path) -> None:
    """Compare the warping loss for soft targets."""
    teachers = np.load(path)
    for row in json.loads(path.with_suffix(".json").read_text(encoding="utf-8")):
        if not row["loss"].startswith("Warping"):
            continue
        _, scores, _, _ = read_case(path.parent / f"loss_{row['case']}.npz")
        soft = torch.softmax(torch.from_numpy(teachers[f"teacher_logits_{row['case']}"]), dim=1)
        lambd = 0.1 if row["loss"] == "Warping" else 0.0
        value = warping_loss(scores, soft, lambd=lambd, compat=True)
        value.backward()
        assert value.item() == pytest.approx(row["value"], rel=1e-5)
        assert scores.grad is not None
        assert float(scores.grad.norm()) == pytest.approx(row["grad_norm"], rel=1e-5)


def check_critical_maps(path: Path) -> None:
    """Compare the critical pixels of the right class, with both ways of counting."""
    case = np.load(path)
    names = [key.removeprefix(_FIXED) for key in case.files if key.startswith(_FIXED)]
    for name in (name for name in names if not name.startswith("conn48")):
        _, scores, _, labels = read_case(path.parent / f"loss_{name}.npz")
        predicted, line = scores.argmax(dim=1) == 1, labels[:, 0] == 1
        rules: dict[Rule, str] = {"counted 8/8": _FIXED, "counted 4/8": f"{_FIXED}conn48_"}
        for rule, key in rules.items():
            found = critical_batch(predicted, line, rule).numpy()
            assert np.array_equal(found, unpack(case[key + name], found.shape[-1])), (name, rule)


_FIXED = "warp_critical_fgfix_"
