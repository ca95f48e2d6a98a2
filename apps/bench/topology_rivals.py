"""Losses beside what others have: clDice of MONAI, Betti matching of topolosses, in one process.

Data are drawn: two images of 512^2 pixels as in `apps.bench.topology`, and volumes of 64^3 and
96^3 voxels with thin sheets and lines; scores are wrong where a rough noise says so.  All run
forward and backward on one thread, on the same scores and one-hot labels, on the foreground
alone; seconds are CPU seconds, medians after a run that compiles.  Every run moves the
batch by another row, as losses here remember what they made of the last labels.

topolosses is no dependency of this package: its losses load torchvision, gudhi and OpenCV, of
which the one measured needs none, so it alone is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from monai.losses.cldice import SoftclDiceLoss
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import one_hot

from apps.bench.topology import make_batch, median_seconds
from geo3d.errors import BackendUnavailable
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.topology.losses.betti_matching import betti_matching_loss
from geo3d.topology.losses.cl_dice import cl_dice_loss

ROUNDS = 3
"""Rounds of the skeletons, MONAI's default and the published number."""
SIDES = (512, 64, 96)
"""Side of two images, then of volumes."""


def draw_volume(
    side: int, seed: int = 0
) -> tuple[Float[Tensor, "1 2 s s s"], Int64[Tensor, "1 s s s"]]:
    """Return scores and labels of thin sheets and lines: where smooth fields are near zero."""
    generator = np.random.default_rng(seed)
    space = (side,) * 3
    fields = ndimage.gaussian_filter(generator.normal(size=(2, *space)), (0, 4, 4, 4))
    one, two = np.abs(fields / fields.std())
    mask = (one < 0.12) | ((one < 0.35) & (two < 0.35))
    noise = generator.normal(size=space)
    rough = ndimage.gaussian_filter(noise, 3)
    signal = np.where(mask, 3.0, -3.0) + 3 * rough / rough.std() + 0.5 * noise
    half = torch.from_numpy((signal / 2).astype(np.float32))[None]
    return torch.stack((-half, half), dim=1), torch.from_numpy(mask[None]).long()


def matching_of_topolosses() -> Callable[..., Any]:
    """Return the class of topolosses' Betti matching loss.

    Raises:
        BackendUnavailable: "bench.no_topolosses".
    """
    spec = importlib.util.find_spec("topolosses")
    if spec is None or not spec.submodule_search_locations:
        raise BackendUnavailable(
            "bench.no_topolosses",
            "The library to compare Betti matching with is not installed.",
            "pip install --no-deps topolosses==0.2.0",
        )
    name = "topolosses.losses"
    if name not in sys.modules:
        # In the place of the package, whose own module would load all losses.
        package = ModuleType(name)
        package.__path__ = [str(Path(spec.submodule_search_locations[0]) / "losses")]
        sys.modules[name] = package
    return importlib.import_module(f"{name}.betti_matching").BettiMatchingLoss


def bench_rivals(
    repeats: int = 3,
    seed: int = 0,
    *,
    sides: tuple[int, ...] = SIDES,
    progress: ProgressCallback = ignore_progress,
) -> list[dict[str, Any]]:
    """Return a row per loss and data: seconds here, of the other library, and their ratio."""
    theirs = {
        "clDice, 3 rounds (MONAI)": SoftclDiceLoss(iter_=ROUNDS, include_background=False),
        "Betti matching (topolosses)": matching_of_topolosses()(softmax=True, alpha=0.5),
    }
    rows = []
    for k, side in enumerate(sides):
        logits, labels = make_batch(side=side, seed=seed) if k == 0 else draw_volume(side, seed)
        maps = one_hot(labels, 2).movedim(-1, 1).float()
        runs = {
            "clDice, 3 rounds (MONAI)": (
                lambda z, k, y=labels: cl_dice_loss(z, y.roll(k, -2), rounds=ROUNDS),
                lambda z, k, t=maps: theirs["clDice, 3 rounds (MONAI)"](
                    t.roll(k, -2), torch.softmax(z, dim=1)
                ),
            ),
            "Betti matching (topolosses)": (
                lambda z, k, y=labels: betti_matching_loss(z, y.roll(k, -2)),
                lambda z, k, t=maps: theirs["Betti matching (topolosses)"](z, t.roll(k, -2)),
            ),
        }
        for name, (ours, other) in runs.items():
            report(progress, f"timing {name}, {side}", k, len(sides))
            seconds = [
                median_seconds(lambda f=each, z=logits: _there_and_back(f, z), repeats)
                for each in (ours, other)
            ]
            data = f"2 x {side}^2" if k == 0 else f"{side}^3"
            row = {"loss": name, "data": data, "cpu s": seconds[0], "other s": seconds[1]}
            rows.append(row | {"times faster": seconds[1] / seconds[0]})
    return rows


_RUNS = itertools.count()


def _there_and_back(loss: Callable[[Tensor, int], Tensor], logits: Tensor) -> None:
    shift = next(_RUNS) % logits.shape[-2]
    scores = logits.detach().roll(shift, -2).requires_grad_()
    loss(scores, shift).backward()
