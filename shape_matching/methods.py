"""The matching methods by name; each takes (source, target, config, progress=..., device=...) and
returns a `Correspondence`.  What else one takes (``landmarks``, ``initial_map``, ``on_map``)
tells `takes`.

* ``axiomatic``: many starts, chosen without ground truth, then refinement (`shape_matching.match`);
* ``diffumatch``: the same, with the chosen map improved by what was learned from generated shapes
  before the refinement (`shape_matching.corrector.improve`);
* ``optimised``, ``optimised-no-prior``: improved by features optimised for the pair instead, with
  and without the spectral prior (`shape_matching.prior.zero_shot`);
* ``zero-shot``: DiffuMatch from a single start, for shapes that stand alike: features of random
  weights on positions, mask and proper-map loss and score distillation, then ZoomOut;
* ``mask-only`` and the other names of `ABLATION`: parts of it;
* ``zoomout``: one start from wave kernel signatures, then ZoomOut, the usual baseline;
* ``nearest``: nearest neighbours of the normalised positions, for shapes that are aligned.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import normalized, total_area
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.spectral.fmap import nearest
from shape_matching.confidence.calibrate import calibrated
from shape_matching.config import MatchConfig
from shape_matching.corrector.improve import OnMap, ignore_map
from shape_matching.correspondence import Correspondence, cycle_confidence
from shape_matching.match import match
from shape_matching.prior.zero_shot_config import SINGLE

Method = Callable[..., Correspondence]


def match_zoomout(
    source: Mesh,
    target: Mesh,
    config: MatchConfig,
    *,
    progress: ProgressCallback = ignore_progress,
    device: str = "auto",
    on_map: OnMap = ignore_map,
) -> Correspondence:
    """Match from the single start of wave kernel signatures."""
    single = replace(config, starts=("wks",), refinement="zoomout", partial="no")
    return match(source, target, single, progress=progress, device=device, on_map=on_map)


def match_nearest(
    source: Mesh,
    target: Mesh,
    config: MatchConfig,
    *,
    progress: ProgressCallback = ignore_progress,
    device: str = "auto",
) -> Correspondence:
    """Match by positions; the shapes must be aligned and of like pose."""
    one, two = (torch.from_numpy(normalized(m).vertices.copy()) for m in (source, target))
    p2p_21, p2p_12 = nearest(two, one).numpy(), nearest(one, two).numpy()
    area = total_area(target) or float(np.square(np.ptp(target.vertices, axis=0)).sum())
    confidence = cycle_confidence(target, p2p_21, p2p_12, area)
    return calibrated(Correspondence(source, target, p2p_21, p2p_12, None, confidence))


def match_diffumatch(
    source: Mesh, target: Mesh, config: MatchConfig, **options: Any
) -> Correspondence:
    """Match with the spectral prior; options as in `shape_matching.match.match`."""
    return match(source, target, replace(config, improve=True), **options)


def match_optimised(
    source: Mesh, target: Mesh, config: MatchConfig, *, changes: Mapping[str, Any], **options: Any
) -> Correspondence:
    """Match with features optimised for the pair, in two rounds.

    Args:
        changes: differences of ``config.zero_shot``.
    """
    settings = replace(config.zero_shot, **changes)
    steps = ("optimise", "optimise")
    rounds = replace(config, improve=True, improvements=steps, zero_shot=settings)
    return match(source, target, rounds, **options)


def match_single(
    source: Mesh, target: Mesh, config: MatchConfig, *, changes: Mapping[str, Any], **options: Any
) -> Correspondence:
    """Match from one start: feature optimisation on shapes that stand alike, then ZoomOut.

    Args:
        changes: differences of ``config.zero_shot``, beside those of its preset "single".
    """
    settings = replace(config.zero_shot, **{**SINGLE, **changes})
    single = replace(
        config, starts=("features",), refinement="zoomout", zero_shot=settings, partial="no"
    )
    return match(source, target, single, **options)


MASK_ONLY: Mapping[str, Any] = {"steps": 1, "loss_map": "regularised", "w_sds": 0.0}
ABLATION: Mapping[str, Mapping[str, Any]] = {
    "mask-laplacian": {**MASK_ONLY, "mask": "laplacian"},
    "mask-only": MASK_ONLY,
    "zero-shot-no-prior": {"mask": "laplacian", "w_sds": 0.0},
    "zero-shot-proper": {"w_sds": 0.0},
    "zero-shot-released": {"w_sds": 1.0, "sds_form": "released"},
    "zero-shot": {},
}
"""The single-start methods: what each changes in `ZeroShotConfig`; the rows of the ablation."""

METHODS: Mapping[str, Method] = {
    "axiomatic": match,
    "diffumatch": match_diffumatch,
    "zoomout": match_zoomout,
    "nearest": match_nearest,
    **{name: partial(match_single, changes=changes) for name, changes in ABLATION.items()},
    "optimised-no-prior": partial(match_optimised, changes={"w_sds": 0.0}),
    "optimised": partial(match_optimised, changes={}),
}


def takes(method: Method, option: str) -> bool:
    """Return whether ``method`` has a keyword argument of that name."""
    parameters = inspect.signature(method).parameters.values()
    return any(p.name == option or p.kind is p.VAR_KEYWORD for p in parameters)
