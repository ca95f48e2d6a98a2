"""Every loss as a module for a training loop that expects MONAI's or torch's losses.

    loss = ClDiceLoss(alpha=0.3, sigmoid=True, ignore_index=255)
    loss(network(images), masks).backward()

A module takes the settings of its function and the options of all losses (`Options`) when it is
made, checks their names, and is called with scores and target, and with a mask of what is annotated
where that changes from batch to batch.  Without `sigmoid` and `softmax` it applies softmax, where
MONAI takes the input as it is; `softmax=False` says that probabilities are given.

`WarmUp` puts a cheap loss before an expensive one and blends them; `warmed_up` does so as the
catalogue advises.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any, ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from geo3d.errors import ConfigError
from geo3d.topology.losses.betti_matching import betti_matching_loss
from geo3d.topology.losses.blob import blob_loss
from geo3d.topology.losses.catalogue import LOSSES
from geo3d.topology.losses.cb_dice import cb_dice_loss
from geo3d.topology.losses.centreline import centreline_loss
from geo3d.topology.losses.cl_dice import cl_dice_loss
from geo3d.topology.losses.critical import cavity_loss, warping_loss
from geo3d.topology.losses.euler import euler_loss
from geo3d.topology.losses.options import Options
from geo3d.topology.losses.overlap import ce_dice_loss, region_wise_loss, scnp_loss
from geo3d.topology.losses.paths import path_loss
from geo3d.topology.losses.persistent import topo_grad_loss, topo_loss
from geo3d.topology.losses.signed_distance import signed_distance_loss
from geo3d.topology.losses.skeleton_recall import skeleton_recall_loss
from geo3d.topology.losses.topograph import topograph_loss
from geo3d.topology.losses.windows import topo_window_loss


class TopologyLoss(nn.Module):
    """A loss with its settings; each subclass names its function.

    Raises:
        ConfigError: "loss.unknown_option" for a setting that the function does not have.
    """

    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        check_settings(self.function, settings)
        self.settings = settings

    def forward(
        self,
        input: Float[Tensor, "b c *space"],
        target: Shaped[Tensor, "*any"],
        mask: Shaped[Tensor, "b ..."] | None = None,
    ) -> Float[Tensor, "*b"]:
        """Return the loss of scores and target, of the annotated part if a mask is given."""
        given = self.settings if mask is None else {**self.settings, "mask": mask}
        return self.function(input, target, **given)

    def extra_repr(self) -> str:
        """Return the settings, for print."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())


def check_settings(function: Callable[..., Tensor], settings: dict[str, Any]) -> None:
    """Refuse names that a loss does not know (code "loss.unknown_option")."""
    own = [name for name in inspect.signature(function).parameters if name not in ("settings",)]
    known = {*own[2:], *Options.__annotations__} - {"options"}
    inner = settings.get("loss", ce_dice_loss if function is scnp_loss else None)
    if inner is not None:
        known |= set(inspect.signature(inner).parameters)
    for name in settings:
        if name not in known:
            close = get_close_matches(name, known, 1)
            guess = f"Did you mean {close[0]}?  " if close else ""
            raise ConfigError(
                "loss.unknown_option",
                f"{getattr(function, '__name__', 'The loss')} has no setting {name!r}.",
                f"{guess}Known: {', '.join(sorted(known))}.",
            )


class CEDiceLoss(TopologyLoss):
    """Cross-entropy and Dice, no topology; see `ce_dice_loss`."""

    function = staticmethod(ce_dice_loss)


class RegionWiseLoss(TopologyLoss):
    """Probabilities times distance maps of the label; see `region_wise_loss`."""

    function = staticmethod(region_wise_loss)


class ClDiceLoss(TopologyLoss):
    """Dice of soft centrelines; see `cl_dice_loss`."""

    function = staticmethod(cl_dice_loss)


class SkeletonRecallLoss(TopologyLoss):
    """Cover the label's centreline; see `skeleton_recall_loss`."""

    function = staticmethod(skeleton_recall_loss)


class CbDiceLoss(TopologyLoss):
    """Centrelines weighted by thickness; see `cb_dice_loss`."""

    function = staticmethod(cb_dice_loss)


class SCNPLoss(TopologyLoss):
    """Any loss (`loss=`) of each pixel's worst neighbour of its class; see `scnp_loss`."""

    function = staticmethod(scnp_loss)


class WarpingLoss(TopologyLoss):
    """Pixels that block a deformation of prediction into truth; see `warping_loss`."""

    function = staticmethod(warping_loss)


class TopoWindowLoss(TopologyLoss):
    """Pairs of pixels joined across the line, in windows; see `topo_window_loss`."""

    function = staticmethod(topo_window_loss)


class CavityLoss(TopologyLoss):
    """Leaks and false walls of holes and cavities; see `cavity_loss`."""

    function = staticmethod(cavity_loss)


class TopoLoss(TopologyLoss):
    """As many lasting features per patch as the truth has; see `topo_loss`."""

    function = staticmethod(topo_loss)


class BettiMatchingLoss(TopologyLoss):
    """Features of prediction and truth matched by place; see `betti_matching_loss`."""

    function = staticmethod(betti_matching_loss)


class TopoGradLoss(TopologyLoss):
    """As many lasting features as wanted; see `topo_grad_loss`."""

    function = staticmethod(topo_grad_loss)


class CentrelineCELoss(TopologyLoss):
    """Cross-entropy weighted to the centrelines; see `centreline_loss`."""

    function = staticmethod(centreline_loss)


class BlobLoss(TopologyLoss):
    """Every component of the truth counts the same; see `blob_loss`."""

    function = staticmethod(blob_loss)


class EulerLoss(TopologyLoss):
    """Components minus holes in windows; see `euler_loss`."""

    function = staticmethod(euler_loss)


class SignedDistanceLoss(TopologyLoss):
    """Distance to the edge, and its ridges; see `signed_distance_loss`."""

    function = staticmethod(signed_distance_loss)


class TopographLoss(TopologyLoss):
    """Regions that change the topology in place; see `topograph_loss`."""

    function = staticmethod(topograph_loss)


class PathLoss(TopologyLoss):
    """Gaps on the cheapest paths; see `path_loss`."""

    function = staticmethod(path_loss)


class WarmUp(nn.Module):
    """A cheap loss first, then a blend, then the expensive one.

    Attributes:
        progress: share of the training that is done, 0 to 1; the training loop sets it.
        start: progress at which the expensive loss comes in.
        length: how much progress the blend takes; 0 switches at once.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        before: Callable[..., Tensor],
        start: float = 0.7,
        length: float = 0.1,
    ) -> None:
        super().__init__()
        if not (0 <= start <= 1 and length >= 0):
            raise ConfigError(
                "loss.bad_weights",
                f"A warm-up from {start} that takes {length}.",
                "Give a start from 0 to 1 and a length of at least 0.",
            )
        self.loss, self.before, self.start, self.length = loss, before, start, length
        self.progress = 0.0

    @property
    def share(self) -> float:
        """Return the share of the expensive loss now."""
        if not self.length:
            return float(self.progress >= self.start)
        return min(max((self.progress - self.start) / self.length, 0.0), 1.0)

    def forward(self, *args: Any, **kwargs: Any) -> Float[Tensor, "*b"]:
        """Return the blend; a loss whose share is 0 is not computed."""
        share = self.share
        if share == 0:
            return self.before(*args, **kwargs)
        value = self.loss(*args, **kwargs)
        return value if share == 1 else share * value + (1 - share) * self.before(*args, **kwargs)


def warmed_up(name: str, *, length: float = 0.1, **settings: Any) -> WarmUp:
    """Return a loss of the catalogue behind what should come before it.

    Args:
        name: key of `LOSSES`.
        length: how much progress the blend takes.
        settings: of the loss; options of all losses go to both.

    Raises:
        ConfigError: "loss.unknown_name", "loss.unknown_option".
    """
    if name not in LOSSES:
        raise ConfigError(
            "loss.unknown_name", f"There is no loss {name!r}.", f"Known: {', '.join(LOSSES)}."
        )
    row = LOSSES[name]
    check_settings(row.function, settings)
    shared = {k: v for k, v in settings.items() if k in Options.__annotations__}
    full, before = (
        partial(row.function, **settings),
        partial(row.auxiliary or row.function, **shared),
    )
    return WarmUp(full, before, row.active_after, length if row.active_after else 0.0)
