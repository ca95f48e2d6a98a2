"""The bench: drawn walls, scores that are wrong, memory, real labels, errors."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apps.bench.topology import (
    PUBLISHED,
    TARGETS,
    bench_betti,
    brick_masks,
    make_batch,
    median_seconds,
    peak_memory,
    run_loss,
)
from apps.bench.topology_rivals import draw_volume, matching_of_topolosses
from geo3d.errors import BackendUnavailable, InputError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.losses.catalogue import LOSSES


def test_walls_are_a_net_with_a_hole_per_brick() -> None:
    masks = brick_masks(2, 256)
    assert np.array_equal(masks, brick_masks(2, 256)) and not np.array_equal(masks[0], masks[1])
    for mask in masks:
        components, holes = betti_numbers(mask)
        assert components <= 3 and holes >= 3 and 0.1 < mask.mean() < 0.4


def test_scores_are_mostly_right_with_wrong_topology() -> None:
    logits, labels = make_batch(side=128)
    guess = logits.argmax(dim=1)
    assert logits.shape == (2, 2, 128, 128) and 0.6 < float((guess == labels).float().mean()) < 0.99
    assert betti_numbers(guess[0].numpy() == 1) != betti_numbers(labels[0].numpy() == 1)


def test_names_are_those_of_the_catalogue() -> None:
    assert set(PUBLISHED) | set(TARGETS) <= set(LOSSES)


@pytest.mark.parametrize("name", ["ce_dice", "warping", "topo_win", "cavity"])
def test_losses_run_on_a_batch(name: str) -> None:
    value = run_loss(name, *make_batch(side=64))
    assert np.isfinite(value)
    assert median_seconds(lambda: run_loss(name, *make_batch(side=64)), 1) >= 0


def test_no_run_profits_from_the_labels_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def judge(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # Kept, so that no later tensor can take the place of an earlier one.
        seen.append(target)
        return logits.sum()

    monkeypatch.setitem(LOSSES, "ce_dice", replace(LOSSES["ce_dice"], function=judge))
    logits, labels = make_batch(side=32)
    median_seconds(lambda: run_loss("ce_dice", logits, labels), 2)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen, 2))
    assert all(torch.equal(target.sum(dim=-2), labels.sum(dim=-2)) for target in seen)


def test_real_labels_are_read(tmp_path: Path) -> None:
    for kind in ("accurate", "pseudo"):
        folder = tmp_path / "train" / kind
        folder.mkdir(parents=True)
        for k in (1, 2):
            picture = np.zeros((20, 30), dtype=np.uint8)
            picture[k] = 255
            Image.fromarray(picture).save(folder / f"{k:03}.png")
    logits, labels = make_batch(tmp_path)
    assert labels.shape == (2, 20, 30) and bool((labels[1, 2] == 1).all())
    assert float(logits[0, 1, 1].mean()) > 0 > float(logits[0, 1, 5].mean())


def test_missing_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no_labels"):
        make_batch(tmp_path)


def test_betti_rows() -> None:
    rows = bench_betti(rounds=1)
    assert {"mask", "Betti", "cpu ms"} == set(rows[0]) and rows[0]["Betti"].startswith("(1, ")


def test_rivals_are_named_when_they_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match="no_topolosses"):
        matching_of_topolosses()


def test_sheets_and_lines_are_thin() -> None:
    logits, labels = draw_volume(16)
    assert logits.shape == (1, 2, 16, 16, 16) and 0 < float(labels.float().mean()) < 0.5


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_grows_with_the_loss() -> None:
    # 2 x 2 x 512^2 scores are 4 MB; their gradient alone is as much.
    assert 4 < peak_memory("ce_dice") < 500
