"""Four small wrong predictions that show whether a loss can repair topology by itself.

Notation: z scores, T true mask, b0 components, b1 holes.  The scores of a wrong prediction follow
the topology term of one loss alone (no cross-entropy, no Dice) by gradient descent with steps of
fixed size: z <- z - r g / max |g|, r falling linearly to zero.  Betti errors are recorded on the
way.  The image is `geo3d bench topology --part toys`.

* gap: one component, predicted as two blobs with a gap.
* bridge: two components, predicted as one with a false bridge.
* broken_ring: a hole, predicted as an open ring.
* false_hole: no hole, predicted with one.

The published TopoLoss pushes births to 0 and deaths to 1 and looks at the background's components;
the published warping loss warps the background, so that only pixels that are right already can be
critical.  Neither repairs the first two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from torch import Tensor

from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.render.previews import contact_sheet, save_png
from geo3d.topology.betti import betti_numbers
from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.betti_matching import betti_matching_loss
from geo3d.topology.losses.blob import blob_items
from geo3d.topology.losses.cb_dice import cb_dice_loss
from geo3d.topology.losses.centreline import centreline_items
from geo3d.topology.losses.cl_dice import cl_dice_loss
from geo3d.topology.losses.critical import cavity_loss, warping_loss
from geo3d.topology.losses.euler import euler_items
from geo3d.topology.losses.options import judge
from geo3d.topology.losses.overlap import cross_entropy
from geo3d.topology.losses.paths import path_items
from geo3d.topology.losses.persistent import published_term, topo_grad_loss, topo_term
from geo3d.topology.losses.signed_distance import signed_distance_items
from geo3d.topology.losses.skeleton_recall import skeleton_recall_loss
from geo3d.topology.losses.topograph import topograph_items
from geo3d.topology.losses.windows import topo_window_loss

SIDE = 40
"""Pixels along each side of a toy."""

Term = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Toy:
    """One wrong prediction of an image or, in `apps.bench.topology_volumes`, of a volume."""

    name: str
    true: Bool[np.ndarray, "*space"]
    wrong: Bool[np.ndarray, "*space"]

    @property
    def scores(self) -> Float[Tensor, "1 2 *space"]:
        """Scores of the wrong prediction: half as sure where it is wrong, softer at edges, uneven.

        Volumes are blurred less, so that thin rods survive.
        Were the gap no likelier than the background far away, the highest way around would be as
        good to a loss that looks at levels only.
        """
        sure = np.where(self.wrong == self.true, 1.0, 0.5)
        blur = 0.7 if self.true.ndim == 2 else 0.5
        soft = ndimage.gaussian_filter(np.where(self.wrong, sure, -sure), blur)
        noise = np.random.default_rng(0).normal(scale=0.05, size=soft.shape)
        half = torch.from_numpy((soft + noise).astype(np.float32))
        return torch.stack((-half, half))[None]


@dataclass(frozen=True)
class Repair:
    """What came of one descent."""

    toy: str
    term: str
    errors: list[tuple[int, ...]]
    """|b0 - true b0|, |b1 - true b1| (and b2 in 3D) before each step and after the last."""
    final: Bool[np.ndarray, "*space"]

    @property
    def repaired(self) -> bool:
        """Say whether the descent ended with the true topology."""
        return not any(self.errors[-1])

    @property
    def steps_needed(self) -> int | None:
        """Return the steps after which the topology stayed right; None if it never did."""
        wrong = [k for k, error in enumerate(self.errors) if any(error)]
        return (wrong[-1] + 1 if wrong else 0) if self.repaired else None


def toys() -> tuple[Toy, ...]:
    """Return the four toys."""
    row, column = np.indices((SIDE, SIDE))
    blobs = ((row - 20) ** 2 + (column - 9) ** 2 < 36) | ((row - 20) ** 2 + (column - 31) ** 2 < 36)
    bar = (abs(row - 20) <= 2) & (abs(column - 20) <= 13)
    radius = np.hypot(row - 20, column - 20)
    ring = (radius >= 9) & (radius <= 14)
    gap = (abs(row - 20) <= 2) & (column > 20)
    hole = (row - 20) ** 2 + (column - 31) ** 2 < 7
    return (
        Toy("gap", blobs | bar, (blobs | bar) & ~(bar & (abs(column - 20) <= 3))),
        Toy("bridge", blobs, blobs | (bar & (abs(row - 20) <= 1))),
        Toy("broken_ring", ring, ring & ~gap),
        Toy("false_hole", blobs | bar, (blobs | bar) & ~hole),
    )


def _without_base(loss: Callable[..., Tensor]) -> Term:
    """Return the topology term of a loss with a weight: what the weight adds."""
    return lambda z, t: loss(z, t, lambd=1.0) - loss(z, t, lambd=0.0)


def _alone(items: Callable[[Batch], Tensor]) -> Term:
    """Return a topology term from its function of a batch."""
    return lambda z, t: judge(items, z, t, {})


def _cb_dice(z: Tensor, t: Tensor) -> Tensor:
    return cb_dice_loss(z, t, alpha=0.0, beta=1.0) - 0.5 * cross_entropy(z, t)


TERMS: dict[str, Term] = {
    "cl_dice": partial(cl_dice_loss, alpha=1.0),
    "skeleton_recall": _without_base(skeleton_recall_loss),
    "cb_dice": _cb_dice,
    "topo_loss": topo_term,
    "warping": partial(warping_loss, lambda_dice=0.0, lambd=1.0),
    "topo_win": partial(topo_window_loss, alpha=0.0),
    "betti_matching": _without_base(betti_matching_loss),
    "topo_grad": _without_base(topo_grad_loss),
    "cavity": partial(cavity_loss, lambda_ce=0.0, lambda_dice=0.0),
    "cl_ce": _alone(centreline_items),
    "blob": _alone(blob_items),
    "euler": _alone(euler_items),
    "signed_distance": _alone(signed_distance_items),
    "topograph": _alone(topograph_items),
    "cape": _alone(path_items),
    "topo_loss, published": published_term,
    "warping, published": partial(warping_loss, lambda_dice=0.0, lambd=1.0, compat=True),
}
"""The topology term of every loss that has one, without overlap; two as published."""


RATE = 0.3
"""How far the most strongly pulled score moves in the first step of a descent."""


def descend(
    toy: Toy,
    term: str,
    steps: int = 150,
    terms: Mapping[str, Term] | None = None,
) -> Repair:
    """Let the scores of a toy follow one term downhill.

    Args:
        toy: where to start.
        term: key of ``terms``.
        steps: number of steps; the descent ends early where the gradient is zero.
        terms: functions of scores and labels; None: `TERMS`.
    """
    judge = (terms or TERMS)[term]
    z = toy.scores
    target = torch.from_numpy(toy.true)[None].long()
    true = betti_numbers(toy.true)
    errors = []
    for step in range(steps + 1):
        mask = (z[0, 1] > z[0, 0]).numpy()
        found = betti_numbers(mask)
        errors.append(tuple(abs(a - b) for a, b in zip(found, true, strict=True)))
        if step == steps:
            break
        leaf = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(judge(leaf, target), leaf)
        most = float(slope.abs().max())
        if most == 0:
            break
        z = z - RATE * (1 - step / steps) * slope / most
    return Repair(toy.name, term, errors, (z[0, 1] > z[0, 0]).numpy())


def descend_all(
    steps: int = 150,
    progress: ProgressCallback = ignore_progress,
    starts: Sequence[Toy] | None = None,
    terms: Mapping[str, Term] | None = None,
) -> list[Repair]:
    """Descend from every toy with every term; None: `toys` and `TERMS`."""
    starts, terms = starts or toys(), terms or TERMS
    found = []
    for toy in starts:
        for term in terms:
            found.append(descend(toy, term, steps, terms=terms))
            report(progress, f"repairing {toy.name}", len(found), len(terms) * len(starts))
    return found


COLORS = np.array([[255, 255, 255], [214, 69, 65], [66, 120, 190], [70, 70, 76]], dtype=np.uint8)
"""Right background, added, missing, right foreground."""
FRAMES = np.array([[214, 69, 65], [60, 160, 90]], dtype=np.uint8)
"""Round a mask of wrong and of right topology."""


def painted(mask: Bool[np.ndarray, "h w"], toy: Toy, scale: int = 3) -> UInt8[np.ndarray, "a b 3"]:
    """Return a mask as an image: dark where right, red where added, blue where missing.

    The frame is green if the topology is the true one.
    """
    kind = np.where(mask, np.where(toy.true, 3, 1), np.where(toy.true, 2, 0))
    image = np.kron(COLORS[kind], np.ones((scale, scale, 1), dtype=np.uint8))
    frame = FRAMES[int(betti_numbers(mask) == betti_numbers(toy.true))]
    padded = np.empty((image.shape[0] + 8, image.shape[1] + 8, 3), dtype=np.uint8)
    padded[:] = 255
    padded[2:-2, 2:-2] = frame
    padded[4:-4, 4:-4] = image
    return padded


SHORT_NAMES = {
    "topo_loss, published": "TopoLoss publ.",
    "warping, published": "Warping publ.",
    "betti_matching": "Betti matching",
    "skeleton_recall": "skeleton recall",
    "signed_distance": "signed distance",
}
"""Of terms, for labels of images."""


def bench_toys(progress: ProgressCallback, previews: Path) -> list[dict[str, Any]]:
    """Let every term repair every toy; keep the image in the run folder."""
    repairs = {(found.toy, found.term): found for found in descend_all(progress=progress)}
    images, labels = [], []
    for toy in toys():
        images += [painted(toy.true, toy), painted(toy.wrong, toy)]
        labels += ["truth", "wrong"]
        images += [painted(repairs[toy.name, term].final, toy) for term in TERMS]
        labels += [SHORT_NAMES.get(term, term) for term in TERMS]
    save_png(contact_sheet(images, labels, columns=len(TERMS) + 2), previews / "toys.png")
    rows = []
    for term in TERMS:
        row: dict[str, Any] = {"term": term}
        for toy in toys():
            found = repairs[toy.name, term]
            left = "left with errors " + "/".join(map(str, found.errors[-1]))
            row[toy.name] = left if found.steps_needed is None else found.steps_needed
        rows.append(row)
    return rows
