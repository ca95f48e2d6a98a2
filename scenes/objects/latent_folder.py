"""Latents and condition tokens from folders in the published format.

    LATENTS/NAME.npz      mean (c, r, r, r)        dense: the structure's latent
                          coords (n, 3), feats (n, c)      sparse: voxels and their latents
    CONDITIONS/NAME.npz   tokens (views, l, k) or (l, k)   what the image encoder said, once

Names may lie in subfolders; both folders have the same ones.  Nothing is unpickled.

Source: Xiang et al. 2024 (TRELLIS), dataset toolkit, for the latents.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from geo3d.device import item_generator
from geo3d.errors import FileFormatError, InputError
from geo3d.files import atomic_path
from geo3d.npz import read_npz
from scenes.objects.condition import ImageEncoder
from scenes.objects.sparse import VoxelGrid
from scenes.objects.train_config import DataConfig
from scenes.objects.training_batch import Latents

MAX_BYTES = 1 << 30


class LatentFolder:
    """The items of a folder that have a condition, by name.

    Args:
        config: where they are.
        is_sparse: which kind of latents is wanted.

    Raises:
        InputError: ``latents.no_folder``, ``latents.none``.
        FileFormatError: ``latents.bad_file``.
    """

    def __init__(self, config: DataConfig, is_sparse: bool) -> None:
        self.config, self.is_sparse = config, is_sparse
        self._latents, self._conditions = _folder(config.latents), _folder(config.conditions)
        known = {_name(path, self._conditions) for path in self._conditions.rglob("*.npz")}
        names = sorted(_name(path, self._latents) for path in self._latents.rglob("*.npz"))
        self._kept: OrderedDict[Path, dict[str, np.ndarray]] = OrderedDict()
        self._kept_bytes = 0
        paired = [name for name in names if name in known]
        if is_sparse:
            paired = [name for name in paired if self._voxels(name) <= config.max_voxels]
        self.held_out = paired[len(paired) - config.hold_out :] if config.hold_out else []
        """Names that are not trained on."""
        self.names = paired[: len(paired) - len(self.held_out)]
        """Names to train on."""
        if not self.names:
            raise InputError(
                "latents.none",
                f"Of {len(names)} files in {config.latents}, none can be trained on.",
                "A file NAME.npz is needed in both folders, and more than are held out.",
            )

    def digest(self) -> str:
        """Return a digest of names, sizes and normalisation."""
        sizes = [(n, (self._latents / f"{n}.npz").stat().st_size) for n in self.names]
        text = json.dumps([sizes, self.config.mean, self.config.std, self.is_sparse])
        return hashlib.sha256(text.encode()).hexdigest()

    def read(self, name: str, generator: torch.Generator) -> Latents:
        """Return one item as a batch; the generator chooses the view.

        Raises:
            FileFormatError: ``latents.bad_file``.
        """
        tokens = self._arrays(self._conditions / f"{name}.npz", ("tokens",))["tokens"]
        views = tokens if tokens.ndim == 3 else tokens[None]
        if views.ndim != 3 or not len(views):
            raise _bad(name, f"tokens have shape {tokens.shape}")
        view = int(torch.randint(len(views), (1,), generator=generator))
        condition = torch.from_numpy(views[view : view + 1].astype(np.float32))
        path = self._latents / f"{name}.npz"
        if self.is_sparse:
            return self._read_sparse(name, path, condition)
        mean = self._arrays(path, ("mean",))["mean"]
        if mean.ndim != 4:
            raise _bad(name, f"mean has shape {mean.shape}")
        values = self._normalised(torch.from_numpy(mean.astype(np.float32)), name)
        return Latents(values[None], condition)

    def _read_sparse(self, name: str, path: Path, condition: Tensor) -> Latents:
        arrays = self._arrays(path, ("coords", "feats"))
        coords, feats = arrays["coords"], arrays["feats"]
        if coords.ndim != 2 or coords.shape[1] != 3 or feats.ndim != 2 or len(coords) != len(feats):
            raise _bad(name, f"coords {coords.shape} and feats {feats.shape} do not fit")
        rows = torch.from_numpy(coords.astype(np.int32))
        rows = torch.cat([torch.zeros_like(rows[:, :1]), rows], dim=1)
        values = torch.from_numpy(feats.astype(np.float32))
        values = self._normalised(values.T, name).T.contiguous()
        return Latents(values, condition, VoxelGrid(rows, 1))

    def _normalised(self, values: Tensor, name: str) -> Tensor:
        """Return (values - mean) / std per channel, the first axis."""
        for factors in (self.config.mean, self.config.std):
            if factors and len(factors) != len(values):
                raise _bad(name, f"{len(values)} channels, normalised by {len(factors)} numbers")
        shape = (-1, *[1] * (values.ndim - 1))
        if self.config.mean:
            values = values - torch.tensor(self.config.mean).reshape(shape)
        if self.config.std:
            values = values / torch.tensor(self.config.std).reshape(shape)
        return values

    def _voxels(self, name: str) -> int:
        return len(self._arrays(self._latents / f"{name}.npz", ("coords", "feats"))["coords"])

    def _arrays(self, path: Path, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        try:
            arrays = read_npz(path, wanted, MAX_BYTES)
        except (OSError, ValueError) as error:
            raise _bad(str(path), str(error)) from error
        if not all(np.issubdtype(array.dtype, np.number) for array in arrays.values()):
            raise _bad(str(path), "an array does not hold numbers")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise _bad(str(path), "a number is not finite")
        self._kept[path] = arrays
        self._kept_bytes += sum(array.nbytes for array in arrays.values())
        while self._kept_bytes > self.config.cache_bytes and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._kept_bytes -= sum(array.nbytes for array in old.values())
        return arrays


def write_tokens(
    folder: str | PathLike[str],
    name: str,
    images: Sequence[Image.Image],
    encoder: ImageEncoder,
    views_at_once: int = 4,
) -> Path:
    """Encode the views of one object and keep their tokens (half precision); return the file.

    A file that is there already is left alone, so an interrupted round goes on where it was.
    """
    path = Path(folder) / f"{name}.npz"
    if path.is_file():
        return path
    starts = range(0, len(images), views_at_once)
    parts = [encoder.encode(images[i : i + views_at_once]).cpu() for i in starts]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, tokens=torch.cat(parts).numpy().astype(np.float16))
    return path


def chosen(names: list[str], step: int, batch: int, seed: int) -> list[str]:
    """Return the names of a step: every name comes once before any comes again."""
    picked = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, len(names))
        order = torch.randperm(len(names), generator=item_generator(seed, f"epoch {epoch}"))
        picked.append(names[int(order[place])])
    return picked


def _folder(path: str) -> Path:
    folder = Path(path)
    if not path or not folder.is_dir():
        raise InputError(
            "latents.no_folder",
            f"There is no folder {path!r}.",
            "data.latents and data.conditions name folders of NAME.npz files.",
        )
    return folder


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _bad(name: str, why: str) -> FileFormatError:
    return FileFormatError("latents.bad_file", f"{name} cannot be trained on: {why}.", "")
