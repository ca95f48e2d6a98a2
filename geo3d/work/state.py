"""What a training needs to resume as if it had never stopped, and its two generations on disk.

Random draws of step n come from a generator seeded by (seed, n), so there is no random state to
keep.  `save_state` keeps the file it takes the place of as `previous`; `load_state` falls back to
that one when the newest is torn or its content is not what was written.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from geo3d import checkpoints
from geo3d.errors import CheckpointError, NumericalError
from geo3d.work.gradients import Clipper, Masters
from geo3d.work.processes import is_sharded, spread_like, whole

log = logging.getLogger(__name__)

DIVERGED_HINT = (
    "Lower the learning rate or lengthen the warm-up.  A checkpoint in the folder is a good state: "
    "the same settings but for a lower learning_rate resume from it."
)


@dataclass(eq=False)
class TrainingState:
    """A network in training, with all that its next step depends on."""

    network: nn.Module
    optimizer: Optimizer
    """Moves the masters' weights."""
    averages: Sequence[AveragedModel] = ()
    """Running averages (`running_average`) of the network, or of ``masters.weights``."""
    clipper: Clipper = field(default_factory=Clipper)
    masters: Masters = None  # type: ignore[assignment]
    """By default those of a network that runs in float32."""
    others: Mapping[str, nn.Module | Optimizer] = field(default_factory=dict)
    """More that is trained, by name."""
    counts: dict[str, int] = field(default_factory=dict)
    """Numbers of the method's own, for instance generations begun."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """The last line of metrics."""
    step: int = 0
    """Steps done."""

    def __post_init__(self) -> None:
        self.masters = self.masters or Masters(self.network)

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return any(map(is_sharded, self.masters.live))

    def update_averages(self) -> None:
        """Move every average towards the weights."""
        for average in self.averages:
            is_list = isinstance(average.module, nn.ParameterList)
            average.update_parameters(self.masters.weights if is_list else self.network)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that is kept, by name."""
        rest = self.network.state_dict()
        rest = {name: rest[name] for name in rest if name not in self.masters.names}
        kept = prefixed("network", rest) | prefixed("masters", self.masters.tensors())
        kept |= prefixed("clipper", self.clipper.tensors())
        for name, part in self._parts().items():
            is_module = isinstance(part, nn.Module)
            kept |= prefixed(name, part.state_dict() if is_module else optimizer_tensors(part))
        return kept

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` returned.

        Raises:
            CheckpointError: ``checkpoint.wrong_weights``.
        """
        try:
            _fill(self.network, below("network", kept), but=self.masters.names)
            self.masters.restore(below("masters", kept))
            self.clipper.restore(below("clipper", kept))
            for name, part in self._parts().items():
                if isinstance(part, nn.Module):
                    _fill(part, below(name, kept))
                else:
                    restore_optimizer(part, below(name, kept))
        except KeyError as error:
            raise CheckpointError(
                "checkpoint.wrong_weights", f"The checkpoint has no {error}.", "Start anew."
            ) from error

    def _parts(self) -> dict[str, nn.Module | Optimizer]:
        averages = {f"average{i}": average for i, average in enumerate(self.averages)}
        return {"optimizer": self.optimizer, **averages, **self.others}


def running_average(network: nn.Module, decay: Callable[[int], float]) -> AveragedModel:
    """Return an average of weights that begins at what they are now.

    Args:
        network: or a list of parameters.
        decay: weight of the average against the new weights, by the number of the step, from 1.
    """
    average = AveragedModel(
        network,
        multi_avg_fn=lambda old, new, count: get_ema_multi_avg_fn(decay(int(count)))(
            old, new, count
        ),
    )
    # the weights it begins at count as averaged; torch would otherwise forget them
    average.n_averaged.fill_(1)
    return average.requires_grad_(False).eval()


def previous(path: Path) -> Path:
    """Return where the generation before ``path`` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_state(
    path: Path, state: TrainingState, settings: Mapping[str, Any], rank: int = 0
) -> None:
    """Write ``state`` with the ``settings`` it belongs to; the file before becomes `previous`.

    Only the process of rank 0 writes; where weights are sharded, all of them must call.

    Raises:
        NumericalError: ``training.diverged``; nothing is written then.
    """
    tensors = {name: whole(tensor) for name, tensor in state.tensors().items()}
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise NumericalError(
            "training.diverged",
            f"{len(bad)} weights or moments are not finite after step {state.step}.",
            DIVERGED_HINT,
        )
    if rank:
        return
    about = {
        "step": state.step,
        "settings": dict(settings),
        "counts": state.counts,
        "numbers": state.numbers,
        "digest": _digest(tensors),
    }
    fresh = path.with_name(f"{path.stem}.new{path.suffix}")
    checkpoints.save(fresh, tensors, about)
    if path.is_file():
        os.replace(path, previous(path))
    os.replace(fresh, path)


def load_state(path: Path, state: TrainingState, settings: Mapping[str, Any]) -> bool:
    """Fill ``state``, made with the same ``settings``, from `save_state`; say whether it was there.

    A learning rate may be lower than it was: that is how a training that diverged is mended.

    Raises:
        CheckpointError: ``checkpoint.other_training``; ``checkpoint.damaged`` where neither
            generation can be read.
    """
    fault: CheckpointError | None = None
    for file in (path, previous(path)):
        if not file.is_file():
            continue
        try:
            checkpoint = checkpoints.load(file)
            if checkpoint.config.get("digest") != _digest(checkpoint.tensors):
                raise CheckpointError(
                    "checkpoint.damaged", f"The content of {file} is not what was written.", ""
                )
        except CheckpointError as error:
            log.warning("%s", error.message)
            fault = fault or error
            continue
        about = checkpoint.config
        if not _is_same_training(about["settings"], dict(settings)):
            raise CheckpointError(
                "checkpoint.other_training",
                f"{file} belongs to a training with other settings or data.",
                "Resume with the settings it was started with, or choose another folder.",
            )
        state.restore(checkpoint.tensors)
        state.step, state.numbers = int(about["step"]), dict(about["numbers"])
        state.counts |= about["counts"]
        return True
    if fault:
        raise fault
    return False


def drop_state(path: Path) -> None:
    """Remove both generations."""
    for file in (path, previous(path)):
        file.unlink(missing_ok=True)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's moments as ``PARAMETER.KEY``, parameters by number."""
    tensors: dict[str, Tensor] = {}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= prefixed(str(index), values)
    return tensors


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimiser the moments of `optimizer_tensors`; its settings stay."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor
    places = [weight for group in optimizer.param_groups for weight in group["params"]]
    for index, values in moments.items():
        moments[index] = {k: spread_like(v, places[index]) for k, v in values.items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as ``PREFIX.NAME``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `prefixed` was given, of tensors with several prefixes."""
    start = prefix + "."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


@torch.no_grad()
def _fill(module: nn.Module, kept: Mapping[str, Tensor], but: Sequence[str] = ()) -> None:
    for name, tensor in module.state_dict().items():
        if name not in but:
            tensor.copy_(spread_like(kept[name], tensor))


def _is_same_training(kept: Any, given: Any) -> bool:
    if isinstance(kept, Mapping) and isinstance(given, Mapping):
        return kept.keys() == given.keys() and all(
            given[k] <= kept[k] if k == "learning_rate" else _is_same_training(kept[k], given[k])
            for k in kept
        )
    return kept == given


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
