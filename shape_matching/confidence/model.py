"""Two probabilities from the signals of a map: that it is right, and that each vertex is.

A map is right when its mean error is below `RIGHT`, a vertex when its own is (distance along the
source over the root of its area).  Both see standardised signals
(`shape_matching.confidence.signals`): maps, of which there are few, are judged by a logistic
regression, vertices by a small network.  Both are calibrated on maps that they were not trained on
(Guo et al., "On Calibration of Modern Neural Networks", 2017: one temperature, and an offset).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d import checkpoints
from geo3d.errors import CheckpointError
from geo3d.files import asset
from shape_matching.confidence.signals import LOCAL, WHOLE, Signals

SHIPPED = "priors/confidence.safetensors"
HIDDEN = 48
_CLIP = 4.0
"""Standard deviations at which a signal is cut off: what was never seen is no more than unusual."""


class Head(nn.Module):
    """A probability from signals: standardise, layers, temperature and offset.

    A signal that is not known, NaN, counts as the mean.
    """

    def __init__(
        self, n_inputs: int, hidden: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        widths = n_inputs, *hidden
        inner = [(nn.Linear(a, b), nn.SiLU()) for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*(m for pair in inner for m in pair), nn.Linear(widths[-1], 1))
        if generator is not None:
            for layer in self.layers:
                if isinstance(layer, nn.Linear):
                    bound = 1 / np.sqrt(layer.in_features)
                    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                    nn.init.zeros_(layer.bias)
        self.mean: Tensor
        self.scale: Tensor
        self.temperature: Tensor
        self.register_buffer("mean", torch.zeros(n_inputs))
        self.register_buffer("scale", torch.ones(n_inputs))
        self.register_buffer("temperature", torch.tensor([1.0, 0.0]))

    def standardise(self, inputs: Float[Tensor, "n c"]) -> None:
        """Remember mean and spread of the inputs; of one known nowhere, 0 and 1."""
        known = ~inputs.isnan()
        count = known.sum(dim=0).clamp(min=1)
        mean = inputs.nansum(dim=0) / count
        away = torch.where(known, inputs - mean, torch.zeros(()))
        self.mean.copy_(mean)
        self.scale.copy_((away.square().sum(dim=0) / count).sqrt().clamp(min=1e-3))

    def forward(self, inputs: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Return logits."""
        known = torch.where(inputs.isnan(), self.mean, inputs)
        seen = ((known - self.mean) / self.scale).clamp(-_CLIP, _CLIP)
        return self.layers(seen)[:, 0] * self.temperature[0] + self.temperature[1]


class Confidence(nn.Module):
    """Probabilities of maps and vertices."""

    def __init__(
        self, generator: torch.Generator | None = None, info: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.whole = Head(len(WHOLE))
        self.vertex = Head(len(LOCAL) + len(WHOLE), (HIDDEN, HIDDEN), generator)
        self.info = dict(info or {})

    @torch.no_grad()
    def probabilities(self, seen: Signals) -> tuple[float, Float[np.ndarray, " s"]]:
        """Return the probability that the map is right, and that each sample is."""
        whole = torch.from_numpy(seen.whole).float()[None]
        vertex = torch.sigmoid(self.vertex(vertex_inputs(seen)))
        return float(torch.sigmoid(self.whole(whole))), vertex.double().numpy()


def vertex_inputs(seen: Signals) -> Float[Tensor, "s c"]:
    """Return what the network of vertices is given for each sample."""
    local, whole = (torch.from_numpy(x).float() for x in (seen.local, seen.whole))
    return torch.cat([local, whole.expand(len(local), -1)], dim=1)


def load_confidence(path: str | Path | None = None) -> Confidence:
    """Read a model; None means the shipped one.  The last few are remembered.

    Raises:
        CheckpointError: ``checkpoint.missing``, ``checkpoint.damaged``,
            ``confidence.not_a_model``.
        InputError: ``asset.missing`` when the shipped one is not there.
    """
    file = asset(SHIPPED) if path is None else Path(path)
    return _load(str(file), file.stat().st_mtime_ns if file.is_file() else 0)


def save_confidence(path: str | Path, model: Confidence) -> str:
    """Write ``model`` to a ``.safetensors`` file and return its digest."""
    own = {"local": list(LOCAL), "whole": list(WHOLE), "info": model.info}
    return checkpoints.save(path, model.state_dict(), {"confidence": own})


@lru_cache(maxsize=2)
def _load(path: str, written: int) -> Confidence:
    checkpoint = checkpoints.load(path)
    own = checkpoint.config.get("confidence")
    try:
        if not isinstance(own, Mapping) or (own["local"], own["whole"]) != (
            list(LOCAL),
            list(WHOLE),
        ):
            raise TypeError("it was made for other signals")
        model = Confidence(info=own.get("info", {}))
        model.load_state_dict(dict(checkpoint.tensors))
    except (KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            "confidence.not_a_model",
            f"{path} is no model of confidence: {error}.",
            "Give a file written by `geo3d train confidence`.",
        ) from error
    return model.requires_grad_(False).eval()
