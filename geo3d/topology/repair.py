"""Repair of a mask's topology: local changes where the probabilities speak least against them.

    repaired = repair(probabilities)             # of the foreground, 2D or 3D
    repaired.mask, repaired.changes

Notation: p the probability of foreground, l = log(p / (1 - p)) its log-odds in nats, the mask
p > 1/2.  A change costs the sum of |l| over the pixels it flips: the loss of log-likelihood.

1. Components: a piece is joined to a neighbour along the cheapest path or removed, whichever costs
   less, if that is less than the price of a component (`geo3d.topology.repair_components`).
2. Holes (3D: cavities): the landscape l tells which regions of the background belong apart
   (`geo3d.topology.repair_basins`).  Gaps of the lines between them are closed; regions that are
   held apart by a low ridge are joined by the cheapest cut; pinholes are filled.
3. In 3D, tunnels: a loop is cut where it is weakest or its middle is filled, whichever costs less,
   if that is less than the price of a tunnel (`geo3d.topology.repair_tunnels`).

Nothing here knows the truth.  What a segmenter is sure of stays: repair follows its probabilities,
and is no better than they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from geo3d.errors import ConfigError, InputError, ShapeError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import Pixels, check_dimensions, check_pixels, label_components
from geo3d.topology.repair_basins import regions_apart
from geo3d.topology.repair_components import Change, Rules, fewer_components
from geo3d.topology.repair_tunnels import fewer_tunnels

_SURE = 1e-4
"""Probabilities are kept this far from 0 and 1: networks are never surer than that."""
_DECIDED = 1.0
"""Nats that a repaired pixel has in later steps."""


@dataclass(frozen=True)
class RepairSettings:
    """What a feature must be worth to stay.  0 for a price leaves that kind of feature alone."""

    component_price: float = 100.0
    """Nats; pieces that cost less to join or remove are."""
    hole_price: float = 50.0
    """Nats; holes that cost less to fill are."""
    tunnel_price: float = 20.0
    """Nats; tunnels that cost less to cut or to fill are (3D)."""
    ridge_height: float = 0.0
    """Mean log-odds of the line between two regions from which on it is closed, and below which it
    is cut."""
    gap_price: float = 20.0
    """Nats; gaps of a line that cost more to close stay open."""
    basin_depth: float = 3.0
    """Nats by which a region must lie below its ridge; 0 leaves lines as they are."""
    pixels: Pixels = "cells"
    """How pixels touch, see `geo3d.topology.grids`."""


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repaired mask."""

    mask: Bool[np.ndarray, "*space"]
    changes: tuple[Change, ...]
    before: tuple[int, ...]
    """Betti numbers of the mask that was given."""
    after: tuple[int, ...]


def repair(
    probabilities: Float[np.ndarray, "*space"], settings: RepairSettings | None = None
) -> Repaired:
    """Return the mask of p > 1/2 with its topology repaired.

    Raises:
        ShapeError: "topology.bad_dimensions", "topology.not_probabilities".
        InputError: "topology.not_finite".
        ConfigError: "topology.bad_price", "topology.unknown_pixels".
    """
    settings = settings or RepairSettings()
    _check(probabilities, settings)
    p = np.clip(probabilities.astype(np.float64), _SURE, 1 - _SURE)
    log_odds = np.log(p / (1 - p))
    given = probabilities > 0.5
    if not given.any() or given.all():
        betti = betti_numbers(given, settings.pixels)
        return Repaired(given, (), betti, betti)
    mask, changes = _with_fewer_pieces(log_odds, given, settings)
    mask, more = _with_right_holes(_decided(log_odds, mask), mask, settings)
    changes += more
    if mask.ndim == 3 and settings.tunnel_price:
        price = settings.tunnel_price
        mask, more = fewer_tunnels(_decided(log_odds, mask), mask, price, settings.pixels)
        changes += more
    # Cuts may have left pieces behind.
    mask, more = _with_fewer_pieces(_decided(log_odds, mask), mask, settings)
    changes += more
    before, after = (betti_numbers(m, settings.pixels) for m in (given, mask))
    return Repaired(mask, tuple(changes), before, after)


def _with_fewer_pieces(
    log_odds: np.ndarray, mask: np.ndarray, settings: RepairSettings
) -> tuple[np.ndarray, list[Change]]:
    price = settings.component_price
    rules = Rules(price, price, settings.pixels == "cells")
    return fewer_components(log_odds, mask, rules) if price else (mask, [])


def _with_right_holes(
    log_odds: np.ndarray, mask: np.ndarray, settings: RepairSettings
) -> tuple[np.ndarray, list[Change]]:
    corners = settings.pixels == "vertices"
    changes: list[Change] = []
    groups, join_price = None, 0.0
    if settings.basin_depth:
        depth, height = settings.basin_depth, settings.ridge_height
        groups, ridges = regions_apart(log_odds, depth, height, settings.gap_price, corners=corners)
        closed, join_price = ridges & ~mask, np.inf
        changes += _gaps(log_odds, closed)
        mask = mask | closed
    rules = Rules(join_price, settings.hole_price, corners, border=True)
    outside, more = fewer_components(-_decided(log_odds, mask), ~mask, rules, groups)
    names = {"join": "cut", "remove": "fill"}
    return ~outside, [*changes, *(replace(c, kind=names[c.kind]) for c in more)]


def _gaps(log_odds: np.ndarray, closed: np.ndarray) -> list[Change]:
    """Return the gaps that were closed, each by itself."""
    labels, count = label_components(closed, corners=True)
    flat = labels.ravel()
    cost = -np.bincount(flat, log_odds.ravel(), count + 1)
    pixels = np.bincount(flat, minlength=count + 1)
    first = np.unique(flat, return_index=True)[1][-count:] if count else []
    places = [tuple(int(i) for i in np.unravel_index(int(k), closed.shape)) for k in first]
    return [Change("close", float(cost[n]), int(pixels[n]), at) for n, at in enumerate(places, 1)]


def _decided(log_odds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return log-odds that agree with a mask: what was repaired is likely from now on."""
    return np.where((log_odds > 0) == mask, log_odds, np.where(mask, _DECIDED, -_DECIDED))


def _check(probabilities: np.ndarray, settings: RepairSettings) -> None:
    check_dimensions(probabilities)
    check_pixels(settings.pixels)
    if not np.isfinite(probabilities).all():
        raise InputError(
            "topology.not_finite",
            "Probabilities hold NaN or infinite values.",
            "Check what made them.",
        )
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise ShapeError(
            "topology.not_probabilities",
            f"Values reach from {probabilities.min():g} to {probabilities.max():g}.",
            "Give probabilities in [0, 1]: of scores take the sigmoid or softmax first.",
        )
    prices = (settings.component_price, settings.hole_price, settings.tunnel_price)
    if not all(value >= 0 for value in (*prices, settings.gap_price, settings.basin_depth)):
        raise ConfigError(
            "topology.bad_price",
            "A price or depth is negative or no number.",
            "0 or more, in nats.",
        )
