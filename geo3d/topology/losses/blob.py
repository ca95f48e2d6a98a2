"""Blob loss: every connected component of the label counts the same, however small.

Notation: p probability of a class, t its label, C_1 ... C_n the components of t, B the background
of t, D(A) a Dice of p and t on the pixels A.

    blob = -mean over i of D(B and C_i)         what the other components cover is left out
    loss = CE + Dice term + lambd x blob,       blob in [-1, 0]

All D come from sums over components, so n components cost what one does.  `domain="nearest"` takes
for each C_i only the part of B that is nearer to it than to the others: a false blob then costs the
component beside it and not all of them, and a large image makes no component unimportant.

Sources: Kofler et al., blob loss (IPMI 2023), which has Dice and cross-entropy of each blob; Jaus
et al., Every component counts (AAAI 2025) for nearest domains.  A class without a component gives 0
and no gradient.  Missed components cost much, false ones little: it sees no topology beyond that.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from scipy import ndimage
from torch import Tensor
from typing_extensions import Unpack

from geo3d.errors import ConfigError
from geo3d.topology.grids import label_components
from geo3d.topology.losses.batch import Batch
from geo3d.topology.losses.memory import in_threads, once_per_content
from geo3d.topology.losses.options import Options, judge
from geo3d.topology.losses.overlap import ce_dice_items

Domain = Literal["all", "nearest"]
SMOOTH = 1e-5


def blob_loss(
    logits: Float[Tensor, "b c *space"],
    target: Shaped[Tensor, "*any"],
    *,
    lambd: float = 1.0,
    domain: Domain = "all",
    **options: Unpack[Options],
) -> Float[Tensor, "*b"]:
    """Return cross-entropy + Dice term + lambd x blob term.

    Args:
        logits: scores.
        target: labels or soft target, whose components are those of its likeliest labels.
        lambd: weight of the blob term (published: half that of the rest).
        domain: the background each component is judged with: "all" of it, or the "nearest" part.
        options: see `Options`; `spacing` counts with "nearest".

    Raises:
        InputError, ConfigError: see `geo3d.topology.losses.options.judge`; "loss.bad_domain".
    """
    check_domain(domain)

    def items(batch: Batch) -> Tensor:
        return ce_dice_items(batch) + lambd * blob_items(batch, domain)

    return judge(items, logits, target, options)


def check_domain(domain: str) -> None:
    """Refuse an unknown domain (code "loss.bad_domain")."""
    if domain not in ("all", "nearest"):
        raise ConfigError("loss.bad_domain", f"No domain {domain!r}.", "Known: all, nearest.")


def blob_items(batch: Batch, domain: Domain = "all") -> Float[Tensor, " b"]:
    """Return minus the mean Dice of each item's components."""
    blobs = torch.from_numpy(_known_blobs(batch.true_masks, domain, batch.spacing))
    blobs = blobs.to(batch.logits.device)
    values = [
        torch.stack([_term(p, label, cell) for p, (label, cell) in zip(ps, each, strict=True)])
        for ps, each in zip(batch.own, blobs, strict=True)
    ]
    return batch.channel_mean(torch.stack(values))


def _term(
    p: Float[Tensor, "*space"], label: Int64[Tensor, "*space"], cell: Int64[Tensor, "*space"]
) -> Float[Tensor, ""]:
    """Return minus the mean Dice of the components 1, 2, ... numbered in ``label``."""
    count = int(label.max())
    if count == 0:
        return p.sum() * 0
    flat = p.flatten()
    hit = flat.new_zeros(count + 1).index_add(0, label.flatten(), flat)
    size = torch.bincount(label.flatten(), minlength=count + 1).to(flat)
    false = flat.new_zeros(count + 1).index_add(0, cell.flatten(), flat * (label.flatten() == 0))
    # With one background for all, every pixel of it lies in cell 0.
    around = false[1:] + false[0]
    dice = (2 * hit[1:] + SMOOTH) / (hit[1:] + around + size[1:] + SMOOTH)
    return -dice.mean()


def _blobs(
    masks: Bool[np.ndarray, "b k *space"], domain: Domain, spacing: tuple[float, ...]
) -> Int64[np.ndarray, "b k 2 *space"]:
    """Return the component and the cell of each pixel; 0 where there is none."""
    flat = masks.reshape(-1, *masks.shape[2:])
    found = in_threads(partial(_blobs_of, domain=domain, spacing=spacing), flat)
    return np.stack(found).reshape(*masks.shape[:2], 2, *masks.shape[2:])


def _blobs_of(
    mask: Bool[np.ndarray, "*space"], domain: Domain, spacing: tuple[float, ...]
) -> Int64[np.ndarray, " 2 *space"]:
    labels = label_components(mask, corners=True)[0].astype(np.int64)
    cells = np.zeros_like(labels)
    if domain == "nearest" and labels.any():
        nearest = ndimage.distance_transform_edt(
            labels == 0, sampling=spacing, return_distances=False, return_indices=True
        )
        cells = labels[tuple(np.asarray(nearest))]
    return np.stack([labels, cells])


_known_blobs = once_per_content(_blobs)
