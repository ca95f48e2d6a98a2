"""Damaged files of every kind end in a value or a documented error, in bounded time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.readers import READERS, Reader, fuzz_reader, peak_memory

MAX_GROWTH = 512 * 2**20
"""Of the peak of resident memory, in bytes, while one reader's cases are read."""


@pytest.mark.parametrize("reader", READERS, ids=lambda r: r.name)
def test_damaged_files_end_well(reader: Reader, tmp_path: Path) -> None:
    before = peak_memory()
    ends = fuzz_reader(reader, tmp_path, 60)
    assert ends.failures == []
    assert peak_memory() - before < MAX_GROWTH
    # damage is noticed, and not everything is damage
    assert sum(ends.outcomes.values()) == 60 and len(ends.outcomes) > 1


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda r: r.name)
def test_two_thousand_damaged_files_of_each_kind(reader: Reader, tmp_path: Path) -> None:
    ends = fuzz_reader(reader, tmp_path, 2000, seed=5)
    assert ends.failures == []
