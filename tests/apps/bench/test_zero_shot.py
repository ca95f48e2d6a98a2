"""The timing of the zero-shot matcher: every setting runs, beside the published one."""

from __future__ import annotations

import pytest

from apps.bench.zero_shot import PUBLISHED_STEPS, bench_zero_shot


@pytest.mark.slow
def test_every_setting_is_timed_and_compared() -> None:
    rows = bench_zero_shot(vertices=1_500, steps=1)
    published, *ours = rows
    # both numbers are rounded
    steps_s = PUBLISHED_STEPS * (published["cpu_s_per_step"] - 0.05)
    assert published["cpu_s"] >= steps_s > 0
    assert ours[0]["what"] == "diffumatch"
    for row in ours:
        assert row["ratio_cpu"] == round(published["cpu_s"] / row["cpu_s"], 1)
        assert 0 < row["error_x100"] < 20
        assert row["peak_gib"] > 0.1
