"""The funnel of hypotheses: which are kept, and the sizes they grow to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from prepared_helpers import random_prepared

from shape_matching.config import MatchConfig
from shape_matching.search import initial_maps as module
from shape_matching.search.initial_maps import (
    Appraisal,
    _sampled_sizes,
    appraise,
    distinct,
    finalists,
)
from shape_matching.search.prepare import Prepared


def test_sizes_end_where_bases_and_samples_do() -> None:
    wide = random_prepared(1, 60, 3, 400)
    narrow = random_prepared(2, 30, 3, 400)
    few = random_prepared(3, 60, 3, 50)
    assert _sampled_sizes(22, 56, 6, wide, wide) == [22, 28, 34, 40, 46, 56]
    assert _sampled_sizes(22, 56, 6, wide, narrow) == [22, 30]
    assert _sampled_sizes(22, 56, 6, narrow, wide) == [22, 30]
    # half as many functions as samples
    assert _sampled_sizes(22, 56, 6, wide, few) == _sampled_sizes(22, 56, 6, few, wide) == [22, 25]
    assert _sampled_sizes(22, 20, 6, wide, wide) == [20]


def test_the_best_and_most_different_grow_in_two_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = random_prepared(1, 200, 4, 800), random_prepared(2, 200, 4, 800)
    config = replace(MatchConfig(), n_hypotheses=5, n_finalists=3, n_samples=700)
    start = torch.randn(9, 20, 20, generator=torch.Generator().manual_seed(0)) / 20**0.5
    # The second is the first's twin, apart by less than 0.7 in the leading 12 x 12 block.
    start[1] = start[0]
    start[1, 15, 15] += 3.0
    grown: list[tuple[int, int, int, list[int]]] = []

    def padded(
        fmaps: torch.Tensor, rows_1: torch.Tensor, rows_2: torch.Tensor, schedule: Sequence[int]
    ) -> torch.Tensor:
        grown.append((len(fmaps), len(rows_1), len(rows_2), list(schedule)))
        extra = schedule[-1] - fmaps.shape[-1]
        return torch.nn.functional.pad(fmaps, (0, extra, 0, extra))

    looked_at: list[int] = []

    def counted(fmaps: torch.Tensor, one: Prepared, two: Prepared, n: int) -> Appraisal:
        looked_at.append(n)
        return appraise(fmaps, one, two, n)

    monkeypatch.setattr(module, "zoomout_hypotheses", padded)
    asked: list[tuple[int, int, float]] = []

    def told(
        fmaps: torch.Tensor, scores: torch.Tensor, count: int, k: int, apart: float
    ) -> torch.Tensor:
        asked.append((count, k, apart))
        return distinct(fmaps, scores, count, k, apart)

    monkeypatch.setattr(module, "appraise", counted)
    monkeypatch.setattr(module, "distinct", told)
    events: list[dict] = []
    found = finalists(start, one, two, config, lambda event: events.append(dict(event)), anew=False)
    assert grown == [
        (5, 600, 600, [22, 28, 34, 40, 46, 56]),
        (3, 700, 700, [*range(56, 137, 8), 144]),
    ]
    assert looked_at == [300, 600] and asked == [(5, 12, 0.7), (3, 20, 1.0)]
    first = distinct(start, appraise(start, one, two, 300).score(), 5, 12, 0.7)
    assert not {0, 1} <= set(first.tolist())
    kept = torch.nn.functional.pad(start[first], (0, 36, 0, 36))
    second = distinct(kept, appraise(kept, one, two, 600).score(), 3, 20, 1.0)
    torch.testing.assert_close(found[:, :56, :56], kept[second])
    assert found.shape == (3, 144, 144)
    assert [(e["step"], e["total"], e["metrics"]["kept"]) for e in events] == [(1, 3, 5), (2, 3, 3)]


def test_another_last_size_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = random_prepared(1, 80, 3, 300), random_prepared(2, 80, 3, 300)
    start = torch.eye(20)[None]
    assert finalists(start, one, two, MatchConfig(), k_last=70).shape == (1, 70, 70)
