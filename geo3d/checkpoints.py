"""Weights on disk: one safetensors file, with the settings of the model as JSON inside.

A new checkpoint is written beside the old one, read back and compared byte by byte, and only then
renamed over it: whatever happens, one good checkpoint is there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from geo3d import __version__
from geo3d.config import config_to_dict
from geo3d.errors import CheckpointError
from geo3d.files import atomic_path, refuse_pointer, sha256_file

_CONFIG_KEY = "geo3d.config"
_VERSION_KEY = "geo3d.version"
_PICKLE_OR_ZIP = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@runtime_checkable
class Shaped(Protocol):
    """A tensor, or what a header says of one."""

    @property
    def shape(self) -> Sequence[int]:
        """Its sizes."""
        ...


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What `load` returns."""

    tensors: Mapping[str, Tensor]
    """Weights by name."""
    config: Mapping[str, Any]
    """The settings stored with them; empty for a foreign file."""
    sha256: str
    """Digest of the file, for manifests."""


def save(path: str | PathLike[str], tensors: Mapping[str, Tensor], config: Any = None) -> str:
    """Write weights and settings to ``path`` (``.safetensors``); return the file's SHA-256.

    Tensors that share memory are stored one by one.  ``config`` is a settings dataclass or a
    mapping that JSON can hold.

    Raises:
        CheckpointError: ``checkpoint.not_verified`` (what was read back differs: a failing disk).
    """
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(own, temporary, metadata=_metadata(config))
        _sort_header(temporary)
        _verify(temporary, own)
        digest = sha256_file(temporary)
    return digest


class Stored(NamedTuple):
    """One entry of a safetensors file."""

    dtype: str
    """Type by its name in the format: F32, F16, BF16, I64, ..."""
    shape: tuple[int, ...]


def read_header(path: str | PathLike[str]) -> dict[str, Stored]:
    """Return what a safetensors file holds by its header, and whether the file is as long as that.

    Raises:
        CheckpointError: ``checkpoint.missing``, ``checkpoint.damaged`` (cut off, or no such file),
            ``checkpoint.foreign``, ``checkpoint.pointer`` (git-lfs left a note in its place).
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError("checkpoint.missing", f"There is no weight file {path}.", "")
    _refuse_foreign(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if 8 + length <= size else b""
    try:
        content = json.loads(text)
        content.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in content.values()), default=0)
        found = {n: Stored(str(e["dtype"]), tuple(e["shape"])) for n, e in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise _damaged(path, f"it has no header of a weight file ({size:,} bytes)") from error
    if 8 + length + end != size:
        wanted = f"{size:,} of {8 + length + end:,} bytes are there"
        raise _damaged(path, wanted)
    return found


def load(path: str | PathLike[str], device: torch.device | str = "cpu") -> Checkpoint:
    """Read a safetensors file.

    Raises:
        CheckpointError: ``checkpoint.missing``, ``checkpoint.damaged``, ``checkpoint.foreign``
            (another format; `geo3d convert` may read it), ``checkpoint.pointer``.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError("checkpoint.missing", f"There is no weight file {path}.", "")
    _refuse_foreign(file)
    try:
        with safe_open(str(file), framework="pt", device=str(device)) as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}
        config = json.loads(metadata.get(_CONFIG_KEY, "{}"))
    except (SafetensorError, ValueError, OSError) as error:
        raise _damaged(path, str(error)) from error
    return Checkpoint(tensors, config, sha256_file(file))


def load_into(module: torch.nn.Module, path: str | PathLike[str]) -> Checkpoint:
    """Load weights into ``module``, all of them and nothing else, and return the checkpoint.

    Raises:
        CheckpointError: as `load`, and ``checkpoint.wrong_weights`` naming what is missing,
            unexpected or of another shape.
    """
    checkpoint = load(path)
    require_fit(module.state_dict(), checkpoint.tensors, str(path))
    module.load_state_dict(dict(checkpoint.tensors))
    return checkpoint


def require_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that are not those of a model by name and shape.

    Raises:
        CheckpointError: ``checkpoint.wrong_weights`` naming what is missing, unexpected or of
            another shape.
    """
    problems = misfits(wanted, found)
    if problems:
        raise CheckpointError(
            "checkpoint.wrong_weights",
            f"The weights in {where} do not fit the model: {some(problems)}.",
            "Build the model with the settings stored in the file.",
        )


def misfits(wanted: Mapping[str, Shaped], found: Mapping[str, Shaped]) -> list[str]:
    """Return what is missing, unexpected or of another shape, in words."""
    problems = [f"missing {name}" for name in wanted if name not in found]
    for name, tensor in found.items():
        if name not in wanted:
            problems.append(f"unexpected {name}")
        elif tuple(tensor.shape) != tuple(wanted[name].shape):
            shapes = f"{tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
            problems.append(f"{name} has shape {shapes}")
    return problems


def some(problems: Sequence[str]) -> str:
    """Return the first five problems and how many more there are."""
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    return "; ".join(problems[:5]) + more


def _metadata(config: Any) -> dict[str, str]:
    values = config_to_dict(config) if dataclasses.is_dataclass(config) else dict(config or {})
    return {_CONFIG_KEY: json.dumps(values), _VERSION_KEY: __version__, "format": "pt"}


def _sort_header(path: Path) -> None:
    """Put the header's keys in order: the library writes metadata in an order of chance, and the
    same weights shall give the same bytes."""
    with open(path, "r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        ordered = text.encode().ljust(length)
        if len(ordered) == length:
            stream.seek(8)
            stream.write(ordered)


def _verify(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        with safe_open(str(path), framework="pt") as stream:
            same = set(stream.keys()) == set(tensors) and all(
                _same_bytes(stream.get_tensor(name), tensor) for name, tensor in tensors.items()
            )
    except SafetensorError:
        same = False
    if not same:
        raise CheckpointError(
            "checkpoint.not_verified",
            f"{path.parent}: the checkpoint read back differs from what was written.",
            "The previous checkpoint is untouched; check the disk.",
        )


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    # Bytes, not values: a NaN must come back as the same NaN.
    same_kind = a.dtype == b.dtype and a.shape == b.shape
    return same_kind and torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _damaged(path: str | PathLike[str], why: str) -> CheckpointError:
    return CheckpointError(
        "checkpoint.damaged",
        f"The weight file {path} cannot be read: {why}.",
        "It may be cut off; copy or convert it again.",
    )


def _refuse_foreign(path: Path) -> None:
    head = refuse_pointer(path)
    # A safetensors file opens with an 8-byte length and the brace of its JSON header.
    if head[:2] in _PICKLE_OR_ZIP and head[8:9] != b"{":
        raise CheckpointError(
            "checkpoint.foreign",
            f"{path} is a pickle or zip file, which could run code when loaded.",
            f"Convert it first, safely: geo3d convert {path.name}.",
        )
