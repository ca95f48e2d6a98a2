"""Blocks: the parts of a scene too large for memory, in memory while needed, else on disk.

A block is any module with a name.  It is made on first use, from its name alone, so a block nobody
has trained needs no file.  Beyond a limit the block used longest ago leaves memory; what training
changed of it, and the moments of its optimiser, go to a safetensors file first.  Every block is a
parameter group of its own: one that comes or goes leaves the moments of the others alone.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from geo3d import checkpoints
from geo3d.config import require
from geo3d.errors import ConfigError

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_SUFFIX = ".safetensors"
EPS = 1e-15
"""Of Adam: gradients of hash tables are small."""


class Blocks:
    """Named modules with a limit on how many are in memory.

    Args:
        make: builds the block of a name, the same each time.
        folder: where blocks are kept; None uses a temporary folder.
        source: another folder, never written, for blocks that `folder` does not hold.
        resident: how many blocks stay in memory between steps.

    Raises:
        ConfigError: ``config.bad_value``.
    """

    def __init__(
        self,
        make: Callable[[str], nn.Module],
        folder: Path | None = None,
        source: Path | None = None,
        resident: int = 64,
    ) -> None:
        require(resident >= 1, "resident", "1 or more")
        self.resident = resident
        self._make = make
        self.folder = folder or Path(tempfile.mkdtemp(prefix="geo3d-blocks-"))
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.source = source
        self._blocks: OrderedDict[str, nn.Module] = OrderedDict()
        self._changed: set[str] = set()
        self._in_use: set[str] = set()
        self._trainable: frozenset[str] | None = None
        self._adam: torch.optim.Adam | None = None

    def get(self, name: str, train: bool = False) -> nn.Module:
        """Return a block, from memory, from disk, or made anew.

        Args:
            train: keep it in memory until `step`; its parameters have gradients unless frozen.

        Raises:
            CheckpointError: ``checkpoint.missing``, ``checkpoint.damaged``,
                ``checkpoint.wrong_weights``.
        """
        block = self._blocks.get(name)
        if block is None:
            block = self._make(name)
            if (file := self._stored(name)) is not None:
                _load(block, file)
            block.requires_grad_(self._may_train(name))
            self._blocks[name] = block
        self._blocks.move_to_end(name)
        if train and self._may_train(name):
            self._in_use.add(name)
            if self._adam is not None:
                self._enrol(name, block)
        return block

    def learn(self, rate: float, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        """Start to train with Adam, or go on with another rate; moments are kept."""
        if self._adam is not None:
            # blocks that come later take the defaults
            self._adam.defaults.update(lr=rate, betas=betas, eps=EPS)
            for group in self._adam.param_groups:
                group.update(lr=rate, betas=betas, eps=EPS)
        else:
            # torch wants a first group; it stays empty of anything that is trained
            none = [torch.zeros(0)]
            self._adam = torch.optim.Adam(none, lr=rate, betas=betas, eps=EPS, fused=True)

    def train_only(self, names: Collection[str] | None) -> None:
        """Freeze every block but these; None lets all train."""
        self._trainable = None if names is None else frozenset(names)
        for name, block in self._blocks.items():
            block.requires_grad_(self._may_train(name))

    def gradients(self) -> Iterable[tuple[str, nn.Module]]:
        """Yield the blocks in memory that hold gradients, with their names."""
        for name, block in self._blocks.items():
            if any(p.grad is not None for p in block.parameters()):
                yield name, block

    def step(self) -> tuple[str, ...]:
        """Apply the gradients, forget them, page out what is over the limit; return who changed.

        Raises:
            ConfigError: ``blocks.not_learning`` before `learn`.
        """
        if self._adam is None:
            raise ConfigError("blocks.not_learning", "No rate is set.", "Call learn(rate) first.")
        touched = tuple(name for name, _ in self.gradients())
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self._changed.update(touched)
        self._in_use.clear()
        self.trim()
        return touched

    def drop_gradients(self) -> None:
        """Forget gradients without applying them."""
        for block in self._blocks.values():
            block.zero_grad(set_to_none=True)
        self._in_use.clear()

    def trim(self) -> None:
        """Page out the blocks used longest ago until the limit holds; blocks in use stay."""
        spare = [name for name in self._blocks if name not in self._in_use]
        for name in spare[: max(0, len(self._blocks) - self.resident)]:
            self._store(name)
            self._forget(name)

    def flush(self) -> None:
        """Write every changed block; all stay in memory."""
        for name in sorted(self._changed):
            self._store(name)

    def export(self, folder: Path, moments: bool = True) -> tuple[str, ...]:
        """Write every block that has been trained to another folder; return the file names.

        Args:
            moments: include the optimiser's, to go on training.
        """
        self.flush()
        folder.mkdir(parents=True, exist_ok=True)
        names = []
        for file in self._files():
            target = folder / file.name
            tensors = {} if moments else checkpoints.load(file).tensors
            if len(kept := _weights(tensors)) < len(tensors):
                checkpoints.save(target, kept)
            elif target != file:
                # what was not trained since stays the same bit for bit
                shutil.copyfile(file, target)
            names.append(file.name)
        return tuple(names)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return weights and moments of the blocks in memory, the tensors themselves."""
        return {name: self._tensors(name) for name in self._blocks}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take back what `state_dict` returned.

        Blocks that are not in it leave memory; those that were paged out since keep what they have.
        """
        for name in list(self._blocks):
            if name not in state:
                self._forget(name)
                self._changed.discard(name)
        self._in_use.clear()
        for name, tensors in state.items():
            block = self.get(name)
            block.load_state_dict(_weights(tensors))
            block.zero_grad(set_to_none=True)
            if self._adam is not None:
                self._take_moments(name, tensors)
            self._changed.add(name)

    def resident_bytes(self) -> int:
        """Return the bytes of parameters and moments in memory."""
        tensors: list[Tensor] = [p for b in self._blocks.values() for p in b.parameters()]
        if self._adam is not None:
            for state in self._adam.state.values():
                tensors += [v for v in state.values() if isinstance(v, Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors)

    def _may_train(self, name: str) -> bool:
        return self._trainable is None or name in self._trainable

    def _file(self, name: str) -> Path:
        return self.folder / f"{quote(name, safe='')}{_SUFFIX}"

    def _stored(self, name: str) -> Path | None:
        file = self._file(name)
        places = [file] if self.source is None else [file, self.source / file.name]
        return next((place for place in places if place.is_file()), None)

    def _files(self) -> list[Path]:
        folders = [self.folder] if self.source is None else [self.source, self.folder]
        found = {file.name: file for folder in folders for file in folder.glob(f"*{_SUFFIX}")}
        return [found[name] for name in sorted(found)]

    def _enrol(self, name: str, block: nn.Module) -> None:
        adam = self._optimiser()
        if any(group.get("name") == name for group in adam.param_groups):
            return
        parameters = dict(block.named_parameters())
        adam.add_param_group({"params": list(parameters.values()), "name": name})
        if (file := self._stored(name)) is not None:
            stored = checkpoints.load(file).tensors
            for key, parameter in parameters.items():
                if f"step/{key}" in stored:
                    adam.state[parameter] = {
                        m: stored[f"{m}/{key}"].to(parameter.device) for m in _MOMENTS
                    }

    def _take_moments(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        block, adam = self._blocks[name], self._optimiser()
        for key, parameter in block.named_parameters():
            moments = {
                m: tensors[f"{m}/{key}"].clone() for m in _MOMENTS if f"{m}/{key}" in tensors
            }
            adam.state.pop(parameter, None)
            if moments:
                self._enrol(name, block)
                adam.state[parameter] = moments

    def _store(self, name: str) -> None:
        if name not in self._changed:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = self._tensors(name)
        # renamed whole but not forced to the disk: after a crash the last saved scene counts, and
        # waiting for the disk at every page would cost more than the training
        temporary = self._file(name).with_suffix(".part")
        save_file({key: t.detach().contiguous() for key, t in tensors.items()}, temporary)
        temporary.replace(self._file(name))
        self._changed.discard(name)

    def _tensors(self, name: str) -> dict[str, Tensor]:
        """Return the weights and moments of a block in memory."""
        block = self._blocks[name]
        tensors: dict[str, Tensor] = dict(block.state_dict())
        for key, parameter in block.named_parameters():
            state = self._adam.state.get(parameter, {}) if self._adam else {}
            tensors.update({f"{m}/{key}": state[m] for m in _MOMENTS if m in state})
        return tensors

    def _forget(self, name: str) -> None:
        block = self._blocks.pop(name)
        if self._adam is None:
            return
        groups = self._adam.param_groups
        groups[:] = [group for group in groups if group.get("name") != name]
        for parameter in block.parameters():
            self._adam.state.pop(parameter, None)

    def _optimiser(self) -> torch.optim.Adam:
        if self._adam is None:
            raise ConfigError("blocks.not_learning", "No rate is set.", "Call learn(rate) first.")
        return self._adam


def _load(block: nn.Module, file: Path) -> None:
    weights = _weights(checkpoints.load(file).tensors)
    checkpoints.require_fit(block.state_dict(), weights, str(file))
    block.load_state_dict(weights)


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the optimiser's moments."""
    return {k: v for k, v in tensors.items() if k.split("/")[0] not in _MOMENTS}
