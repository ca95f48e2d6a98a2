"""All losses by name, with what they cost.

`relative_cost` is CPU time of forward and backward relative to CE+Dice on a batch of two 512^2
pictures with two classes, `memory_per_pixel` the bytes per pixel of a batch that forward and
backward need at their peak on top of scores and target: both measured, both only a guide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from geo3d.topology.losses.cb_dice import cb_dice_loss
from geo3d.topology.losses.cl_dice import cl_dice_loss
from geo3d.topology.losses.overlap import ce_dice_loss, region_wise_loss
from geo3d.topology.losses.scnp import scnp_loss
from geo3d.topology.losses.skeleton_recall import skeleton_recall_loss


@dataclass(frozen=True)
class Loss:
    """One loss and what a training loop must know about it."""

    name: str
    """Key in `LOSSES`."""
    function: Callable[..., Tensor]
    """(logits, target, **settings) -> scalar."""
    paper: str
    """Where it was published."""
    auxiliary: Callable[..., Tensor] | None = None
    """What takes its place before `active_after` and on auxiliary heads; None: itself."""
    active_after: float = 0.0
    """Share of the training before it is switched on."""
    output_channels: int | None = None
    """Channels it wants from a network; None: one per class."""
    dimensions: tuple[int, ...] = (2, 3)
    """Spatial dimensions it can judge."""
    relative_cost: float = 1.0
    """Time relative to CE+Dice."""
    memory_per_pixel: int = 50
    """Peak bytes per pixel."""
    note: str = ""
    """What to know before choosing it."""


ROWS: tuple[Loss, ...] = (
    Loss(
        "ce_dice",
        ce_dice_loss,
        "Milletari et al., V-Net (2016)",
        note="no topology; the base of the others",
    ),
    Loss(
        "region_wise",
        region_wise_loss,
        "Valverde & Tohka, Region-wise loss (2023)",
        relative_cost=5.0,
        note="distance maps of the label; no topology",
    ),
    Loss(
        "cl_dice",
        cl_dice_loss,
        "Shit et al., clDice (2021)",
        relative_cost=5.0,
        note="soft centrelines; connects lines",
    ),
    Loss(
        "skeleton_recall",
        skeleton_recall_loss,
        "Kirchhoff et al., Skeleton Recall Loss (2024)",
        relative_cost=2.0,
        note="cover the label's centreline; cheapest for many classes",
    ),
    Loss(
        "cb_dice",
        cb_dice_loss,
        "Shi et al., Centerline Boundary Dice (2024)",
        relative_cost=10.0,
        note="centrelines weighted by thickness",
    ),
    Loss(
        "scnp",
        scnp_loss,
        "Valverde et al., Same-Class Neighbor Penalization (2026)",
        relative_cost=2.0,
        note="wraps any other loss; here CE+Dice",
    ),
)

LOSSES: dict[str, Loss] = {loss.name: loss for loss in ROWS}
"""Every loss by name."""
