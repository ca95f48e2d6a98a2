"""Times, medians and memory."""

from __future__ import annotations

import os
import time

from apps.bench.measuring import apart, medians, peak_mib, timed


def test_an_action_is_timed_and_its_result_kept() -> None:
    made, spent = timed(time.sleep, 0.02)
    assert made is None and spent.wall >= 0.02 > spent.cpu >= 0


def test_the_first_round_does_not_count() -> None:
    assert medians([(9.0, 9.0), (1.0, 4.0), (3.0, 2.0), (2.0, 3.0)]) == [2.0, 3.0]


def test_a_process_of_its_own_has_memory_of_its_own() -> None:
    assert apart(os.getpid) != os.getpid()
    assert peak_mib() > 1
