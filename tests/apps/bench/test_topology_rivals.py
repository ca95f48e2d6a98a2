"""Losses beside other libraries: rows, and labels that no run has seen before."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from apps.bench import topology_rivals
from apps.bench.topology_rivals import bench_rivals, draw_volume, matching_of_topolosses
from geo3d.errors import BackendUnavailable


def test_both_libraries_judge_the_same_scores_and_new_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("topolosses")
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"cl_dice": [], "matching": []}

    def keep(name: str, loss: Any) -> Any:
        def kept(scores: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
            seen[name].append((scores.detach().clone(), labels.clone()))
            return loss(scores, labels, **options)

        return kept

    for name, loss in (("cl_dice", "cl_dice_loss"), ("matching", "betti_matching_loss")):
        monkeypatch.setattr(topology_rivals, loss, keep(name, getattr(topology_rivals, loss)))
    rows = bench_rivals(2, sides=(24, 8))
    assert [row["data"] for row in rows] == ["2 x 24^2"] * 2 + ["8^3"] * 2
    for row in rows:
        assert row["times faster"] == pytest.approx(row["other s"] / row["cpu s"])
    for calls in seen.values():
        for calls_of_one in (calls[:3], calls[3:]):
            first = calls_of_one[0][0].argmax(1)
            labels = [each for _, each in calls_of_one]
            assert not any(torch.equal(a, b) for a, b in itertools.pairwise(labels))
            for scores, own in calls_of_one:  # the same rows of both are moved
                assert (scores.argmax(1) == own).float().mean() == pytest.approx(
                    float((first == labels[0]).float().mean()), abs=1e-6
                )


def test_a_drawn_volume_is_wrong_here_and_there() -> None:
    logits, labels = draw_volume(12)
    again, _ = draw_volume(12)
    assert torch.equal(logits, again) and logits.shape == (1, 2, 12, 12, 12)
    right = (logits.argmax(1) == labels).float().mean()
    assert 0.5 < right < 1 and 0 < labels.float().mean() < 1


def test_without_the_other_library_the_line_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology_rivals.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable) as caught:
        matching_of_topolosses()
    assert caught.value.code == "bench.no_topolosses" and "topolosses==" in caught.value.hint
