"""Checkpoints: what is saved is read back, what is damaged is named, the old one survives."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from geo3d import checkpoints
from geo3d.convert import convert_file
from geo3d.errors import CheckpointError
from geo3d.files import sha256_file


@dataclass(frozen=True)
class Settings:
    width: int = 4


def code_of(call: object, *args: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.code


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(12.0).reshape(3, 4)
    return {
        "plain": base,
        "shared": base,
        "view": base.t()[1:3],
        "bf16": torch.tensor([1.5, float("nan"), float("-inf")], dtype=torch.bfloat16),
        "none": torch.zeros(0, 3),
        "scalar": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "learned": torch.nn.Parameter(torch.ones(2)),
    }


def test_round_trip_keeps_bits_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    digest = checkpoints.save(file, tensors(), Settings(width=8))
    loaded = checkpoints.load(file)
    assert digest == loaded.sha256 == sha256_file(file)
    assert loaded.config == {"width": 8}
    for name, tensor in tensors().items():
        got = loaded.tensors[name]
        assert got.dtype == tensor.dtype and got.shape == tensor.shape
        assert torch.equal(checkpoints._bytes(got), checkpoints._bytes(tensor.detach()))


def test_the_old_one_survives_a_bad_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.safetensors"
    digest = checkpoints.save(file, {"a": torch.ones(3)})
    real = checkpoints.save_file

    def corrupt(own: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        real(own, path, metadata=metadata)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))

    monkeypatch.setattr(checkpoints, "save_file", corrupt)
    assert code_of(checkpoints.save, file, {"a": torch.zeros(3)}) == "checkpoint.not_verified"
    assert sha256_file(file) == digest and os.listdir(tmp_path) == ["m.safetensors"]


def test_damage_is_named(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    assert code_of(checkpoints.load, file) == "checkpoint.missing"
    checkpoints.save(file, {"a": torch.ones(1000)})
    whole = file.read_bytes()
    for data in (b"", whole[:4], whole[:50], whole[:-1], b"\xff" * 8 + whole[8:]):
        file.write_bytes(data)
        assert code_of(checkpoints.load, file) == "checkpoint.damaged"


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_a_note_of_git_lfs_is_named_before_anything_else(tmp_path: Path, name: str) -> None:
    """What a clone without git-lfs leaves (case `doctor_lfs`)."""
    file = tmp_path / name
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    for read in (checkpoints.load, checkpoints.read_header):
        assert code_of(read, file) == "checkpoint.pointer"
    assert code_of(convert_file, file, tmp_path / "out.safetensors") == "checkpoint.pointer"


def test_pickles_are_refused_and_the_converter_named(tmp_path: Path) -> None:
    file = tmp_path / "m.pt"
    torch.save({"a": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match="geo3d convert") as caught:
        checkpoints.load(file)
    assert caught.value.code == "checkpoint.foreign"
    torch.save({"a": torch.ones(1)}, file, _use_new_zipfile_serialization=False)
    assert code_of(checkpoints.load, file) == "checkpoint.foreign"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x", "y")
    assert code_of(checkpoints.load, file) == "checkpoint.foreign"


def test_load_into_fits_exactly_or_says_what_does_not(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    checkpoints.save(file, source.state_dict(), Settings())
    assert checkpoints.load_into(target, file).config == {"width": 4}
    assert torch.equal(source.weight, target.weight)
    before = target.weight.clone()
    checkpoints.save(file, {"weight": torch.zeros(3, 3), "extra": torch.zeros(1)})
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load_into(target, file)
    assert caught.value.code == "checkpoint.wrong_weights"
    for part in ("missing bias", "unexpected extra", "weight has shape (3, 3) instead of (2, 3)"):
        assert part in caught.value.message
    assert torch.equal(before, target.weight)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    saved = {
        checkpoints.save(tmp_path / "m.safetensors", tensors(), {"name": "\u00e9\n"})
        for _ in range(8)
    }
    assert len(saved) == 1
    assert checkpoints.load(tmp_path / "m.safetensors").config == {"name": "\u00e9\n"}
