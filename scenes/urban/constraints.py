"""Constraint losses of the layout on a rendering: where matter is, how far, of which class.

Each loss is a function of tensors and is switched off by weight 0.

Notation: r rays, s samples at depths t along each with weights w (transmittance x opacity); a the
sum of w; segments (r, k, 2) depths where a ray enters and leaves primitives; c classes.  Depths
are z-depths in metres; primitives are coarse, so a surface may lie up to a tolerance from theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from geo3d.errors import ShapeError


@dataclass(frozen=True)
class ConstraintConfig:
    """Weights of the constraint losses; 0 switches one off."""

    density: float = 1.0
    """No matter outside primitives, and some behind every pixel that shows one."""
    depth: float = 0.5
    """Surfaces where the layout has them."""
    semantics: float = 0.1
    """Classes of the layout, for scenes with a head that predicts them."""
    depth_tolerance: float = 1.0
    """How far a surface may be from the layout's without cost, metres."""
    slack: float = 0.25
    """How far matter may reach out of a primitive without cost, metres."""


@dataclass(frozen=True)
class LayoutRays:
    """The layout along r rays."""

    depth: Tensor
    """(r,) metres; -1 where nothing is hit."""
    label: Tensor
    """(r,) class ids; -1 where nothing is hit."""
    segments: Tensor
    """(r, k, 2) metres, enter and exit; unused rows have an exit not above their enter."""


@dataclass(frozen=True)
class RenderedRays:
    """The scene along the same rays."""

    depth: Tensor
    """(r,) metres, mean over what is seen."""
    weights: Tensor
    """(r, s)."""
    t: Tensor
    """(r, s) depths of the samples, metres."""
    logits: Tensor | None = None
    """(r, c) of the classes; None without such a head."""


def constraint_losses(
    rendered: RenderedRays,
    layout: LayoutRays,
    config: ConstraintConfig = ConstraintConfig(),
) -> dict[str, Tensor]:
    """Return the weighted losses that are switched on, by the names of `ConstraintConfig`.

    Raises:
        ShapeError: ``constraints.no_head`` when a scene without classes shall have the layout's.
    """
    losses: dict[str, Tensor] = {}
    if config.density > 0:
        outside = outside_loss(rendered.weights, rendered.t, layout.segments, config.slack)
        hollow = coverage_loss(rendered.weights, layout.depth)
        losses["density"] = config.density * (outside + hollow)
    if config.depth > 0:
        far = depth_loss(rendered.depth, layout.depth, config.depth_tolerance)
        losses["depth"] = config.depth * far
    if config.semantics > 0:
        if rendered.logits is None:
            raise ShapeError(
                "constraints.no_head",
                "Classes are constrained, but the scene predicts none.",
                "Give the scene a head for classes, or set semantics to 0.",
            )
        losses["semantics"] = config.semantics * semantic_loss(rendered.logits, layout.label)
    return losses


def outside_loss(weights: Tensor, t: Tensor, segments: Tensor, slack: float = 0.0) -> Tensor:
    """Return the mean over rays of the weight (r, s) of samples outside all segments."""
    enter, leave = segments[:, None, :, 0], segments[:, None, :, 1]
    depth = t[..., None]
    inside = (depth >= enter - slack) & (depth <= leave + slack) & (leave > enter)
    return (weights * ~inside.any(dim=-1)).sum(dim=-1).mean()


def coverage_loss(weights: Tensor, layout_depth: Tensor) -> Tensor:
    """Return the mean over rays that hit the layout of 1 - a: what shines through."""
    return _mean_where(1 - weights.sum(dim=-1), layout_depth > 0)


def depth_loss(depth: Tensor, layout_depth: Tensor, tolerance: float = 0.0) -> Tensor:
    """Return the mean over hits of |d - d_layout| beyond ``tolerance``, over 1 m + d_layout.

    Dividing keeps far surfaces, which a pixel sees coarsely, from outweighing near ones.
    """
    hit = layout_depth > 0
    beyond = F.relu((depth - layout_depth).abs() - tolerance)
    return _mean_where(beyond / (1 + layout_depth.clamp(min=0)), hit)


def semantic_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return the mean cross-entropy over the rays with a label."""
    known = label >= 0
    entropy = F.cross_entropy(logits, label.long().clamp(min=0), reduction="none")
    return _mean_where(entropy, known)


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)
