"""All losses by name, with what they cost.

`relative_cost` is CPU time of forward and backward relative to CE+Dice on a batch of two 512^2
images with two classes, `memory_per_pixel` the bytes per pixel of a batch that forward and
backward need at their peak on top of scores and target: both measured, both only a guide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from geo3d.topology.losses.betti_matching import betti_matching_loss
from geo3d.topology.losses.blob import blob_loss
from geo3d.topology.losses.cb_dice import cb_dice_loss
from geo3d.topology.losses.centreline import centreline_loss
from geo3d.topology.losses.cl_dice import cl_dice_loss
from geo3d.topology.losses.critical import cavity_loss, warping_loss
from geo3d.topology.losses.euler import euler_loss
from geo3d.topology.losses.overlap import (
    ce_dice_loss,
    cross_entropy,
    dice_term,
    region_wise_loss,
    scnp_loss,
)
from geo3d.topology.losses.paths import path_loss
from geo3d.topology.losses.persistent import topo_grad_loss, topo_loss
from geo3d.topology.losses.signed_distance import signed_distance_loss
from geo3d.topology.losses.skeleton_recall import skeleton_recall_loss
from geo3d.topology.losses.topograph import topograph_loss
from geo3d.topology.losses.windows import topo_window_loss


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
    dimensions: tuple[int, ...] = (2, 3)
    """Spatial dimensions it can judge."""
    relative_cost: float = 1.0
    """Time relative to CE+Dice."""
    memory_per_pixel: int = 72
    """Peak bytes per pixel."""
    note: str = ""
    """What to know before choosing it."""


ROWS: tuple[Loss, ...] = (
    Loss(
        "ce_dice",
        ce_dice_loss,
        "Milletari et al., V-Net (2016)",
        relative_cost=1.0,
        memory_per_pixel=72,
        note="no topology; the base of the others",
    ),
    Loss(
        "region_wise",
        region_wise_loss,
        "Valverde & Tohka, Region-wise loss (2023)",
        relative_cost=3.5,
        memory_per_pixel=68,
        note="distance maps of the label; no topology",
    ),
    Loss(
        "cl_dice",
        cl_dice_loss,
        "Shit et al., clDice (2021)",
        relative_cost=12.0,
        memory_per_pixel=125,
        note="soft centrelines; connects lines",
    ),
    Loss(
        "skeleton_recall",
        skeleton_recall_loss,
        "Kirchhoff et al., Skeleton Recall Loss (2024)",
        relative_cost=2.0,
        memory_per_pixel=76,
        note="cover the label's centreline; cheapest for many classes",
    ),
    Loss(
        "cb_dice",
        cb_dice_loss,
        "Shi et al., Centerline Boundary Dice (2024)",
        relative_cost=4.5,
        memory_per_pixel=86,
        note="centrelines weighted by thickness",
    ),
    Loss(
        "scnp",
        scnp_loss,
        "Valverde et al., Same-Class Neighbor Penalization (2026)",
        relative_cost=4.5,
        memory_per_pixel=123,
        note="wraps any other loss; here CE+Dice",
    ),
    Loss(
        "warping",
        warping_loss,
        "Hu, Homotopy warping (2022)",
        auxiliary=partial(warping_loss, lambd=0.0),
        active_after=0.7,
        relative_cost=11.0,
        memory_per_pixel=74,
        note="pixels that block a deformation of prediction into truth",
    ),
    Loss(
        "topo_win",
        topo_window_loss,
        "Oner et al., TOPO (2022)",
        dimensions=(2,),
        relative_cost=6.0,
        memory_per_pixel=114,
        note="pairs of pixels joined across the line; also for one distance channel",
    ),
    Loss(
        "cavity",
        cavity_loss,
        "TopoMortar's unfinished CavityLoss; Vu Ngoc et al. (2021)",
        relative_cost=6.0,
        memory_per_pixel=106,
        note="judges holes and cavities only, not components",
    ),
    Loss(
        "topo_loss",
        topo_loss,
        "Hu et al., TopoLoss (2019)",
        auxiliary=cross_entropy,
        active_after=0.7,
        relative_cost=8.0,
        memory_per_pixel=110,
        note="as many components, tunnels and holes per patch as the truth has",
    ),
    Loss(
        "betti_matching",
        betti_matching_loss,
        "Stucki et al., Betti matching (2023)",
        auxiliary=dice_term,
        active_after=0.7,
        relative_cost=13.0,
        memory_per_pixel=155,
        note="components, tunnels and holes matched by place",
    ),
    Loss(
        "topo_grad",
        topo_grad_loss,
        "Gabrielsson et al., A topology layer (2020)",
        auxiliary=ce_dice_loss,
        active_after=0.7,
        relative_cost=8.0,
        memory_per_pixel=115,
        note="numbers of components, tunnels and holes, from the truth or given",
    ),
    Loss(
        "cl_ce",
        centreline_loss,
        "Acebes et al., The centerline-cross entropy loss (2024)",
        relative_cost=14.5,
        memory_per_pixel=207,
        note="cross-entropy on both centrelines; gaps and false lines",
    ),
    Loss(
        "blob",
        blob_loss,
        "Kofler et al., blob loss (2023)",
        relative_cost=1.5,
        memory_per_pixel=89,
        note="every component counts the same; no other topology",
    ),
    Loss(
        "euler",
        euler_loss,
        "Li et al., fast Euler characteristic (2023, 2025)",
        relative_cost=5.5,
        memory_per_pixel=178,
        note="components minus holes per window; a gap may be answered by a hole",
    ),
    Loss(
        "signed_distance",
        signed_distance_loss,
        "after SDF-TopoNet (2025)",
        relative_cost=5.0,
        memory_per_pixel=83,
        note="distance to the edge, exact on ridges",
    ),
    Loss(
        "topograph",
        topograph_loss,
        "Lux et al., Topograph (2025)",
        auxiliary=ce_dice_loss,
        active_after=0.7,
        dimensions=(2,),
        relative_cost=9.0,
        memory_per_pixel=145,
        note="regions of disagreement that change the topology in place",
    ),
    Loss(
        "cape",
        path_loss,
        "Esmaeilzadeh et al., CAPE (2025)",
        auxiliary=ce_dice_loss,
        active_after=0.7,
        relative_cost=43.5,
        memory_per_pixel=83,
        note="gaps on the cheapest paths between places the label joins",
    ),
)

LOSSES: dict[str, Loss] = {loss.name: loss for loss in ROWS}
"""Every loss by name."""
