"""The converter's child process: what it makes, what it reports, what it may not use up."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_pickles import Call, dumps, state_dict, tensor_pickle

from geo3d import checkpoints, convert
from geo3d.errors import InputError


def test_the_child_converts_and_the_library_reads_it(tmp_path: Path) -> None:
    source, out = tmp_path / "m.pt", tmp_path / "deep" / "m.safetensors"
    torch.save({"model": state_dict(), "step": 7}, source)
    made = convert.convert_file(source, out)
    loaded = checkpoints.load(out)
    assert made.sha256 == loaded.sha256 and loaded.config == {"step": 7}
    assert set(made.names) == loaded.tensors.keys()
    for name, tensor in state_dict().items():
        assert torch.equal(loaded.tensors[f"model.{name}"], tensor)
        assert loaded.tensors[f"model.{name}"].dtype == tensor.dtype
    assert made.source_sha256 in out.read_bytes()[:4000].decode("latin1")


def failing(source: Path, **kwargs: Any) -> str:
    out = source.parent / "out.safetensors"
    with pytest.raises(InputError) as caught:
        convert.convert_file(source, out, **kwargs)
    assert not out.exists() and not list(source.parent.glob(".tmp-*"))
    return caught.value.code


def test_the_child_reports_our_errors(tmp_path: Path) -> None:
    source = tmp_path / "m.pkl"
    assert failing(source) == "file.missing"
    source.write_bytes(dumps(Call("os", "system", "true")))
    assert failing(source) == "checkpoint.forbidden_global"
    source.write_bytes(pickle.dumps({"a": 1}))
    assert failing(source) == "checkpoint.no_tensors"
    source.write_bytes(b"not a pickle")
    assert failing(source) == "checkpoint.damaged"
    assert failing(source, max_bytes=3) == "checkpoint.too_large"


def test_the_child_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "m.pkl"
    monkeypatch.setattr(convert, "_SPARE_BYTES", 400 << 20)
    # bytearray(2**40), and a memo slot numbered 2**31 - 1: both ask for memory out of nothing.
    source.write_bytes(dumps(Call("builtins", "bytearray", 2**40)))
    assert failing(source) in ("checkpoint.too_large", "checkpoint.damaged")
    source.write_bytes(b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b".")
    assert failing(source) in ("checkpoint.too_large", "checkpoint.converter_died")


def test_a_slow_child_is_stopped(tmp_path: Path) -> None:
    source = tmp_path / "m.pkl"
    source.write_bytes(pickle.dumps({"a": np.ones(1)}))
    assert failing(source, timeout_s=0.001) == "checkpoint.too_slow"


def test_bombs_in_zip_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_SPARE_BYTES", 300 << 20)
    source = tmp_path / "m.pt"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", tensor_pickle(0, (4,), (1,)))
        with archive.open("archive/data/0", "w", force_zip64=True) as stream:
            for _ in range(320):
                stream.write(bytes(1 << 20))
    assert failing(source) == "checkpoint.too_large"
