"""The bench of sparse layers: oracles agree, and disagree with what is wrong."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from apps.bench.sparse import attention_rows, bench_sparse, convolution_rows, shell
from apps.cli import main


def test_the_tables_hold_errors_within_rounding() -> None:
    tables = bench_sparse(((8, 8),), repeats=1)
    rows = [row for table in tables.values() for row in table]
    expected = 6 + (importlib.util.find_spec("spconv") is not None)
    assert len(rows) == expected and all(row["voxels"] > 100 for row in rows)
    for row in rows:
        assert float(row["error"]) < 1e-5 and float(row["gradient error"]) < 1e-5
        assert row["forward ms"] >= 0 and row["backward ms"] >= 0


def test_shells_differ_and_have_two_items() -> None:
    x = shell(8, 4)
    assert x.batch_size == 2 and x.grid.counts[0] > x.grid.counts[1] > 0
    assert torch.equal(x.feats, shell(8, 4).feats)


def test_a_wrong_layer_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x = shell(8, 8)
    name = "apps.bench.sparse._ours"
    monkeypatch.setattr(name, lambda layer, x, w: x.feats @ w[:, 1, 1, 1].T)
    ours = convolution_rows(x, 8, 1)[1]
    assert float(ours["error"]) > 1e-4
    monkeypatch.setattr("apps.bench.sparse.attend_packed", lambda q, k, v, *_: 0 * (q + k) + v)
    assert float(attention_rows(x, 1)[1]["error"]) > 1e-2


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["bench", "sparse", "--repeats", "1", "--max-vertices", "5000", "--out",
                 str(tmp_path), "--quiet"])  # fmt: skip
    text = capsys.readouterr().out
    assert code == 0 and "submanifold convolution" in text and "dense oracle, windows" in text
