"""A loss of topology as nnU-Net calls it: heads of falling size, each with its own target.

The first head, at full size, is judged by the loss of the catalogue; the coarser ones by
cross-entropy and Dice, as the topology of a label at an eighth of the size is another topology.
Head i has weight 2^-i, scaled so that the weights sum to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from geo3d.errors import ConfigError
from geo3d.topology.losses.catalogue import LOSSES
from geo3d.topology.losses.deep import head_weights
from geo3d.topology.losses.modules import WarmUp, warmed_up
from geo3d.topology.losses.overlap import ce_dice_loss, scnp_loss


class HeadsLoss(nn.Module):
    """The loss of all heads of nnU-Net.

    Attributes:
        main: what judges the first head; its `progress` is set by the trainer.
        regions: whether channels are regions (sigmoid).
        ignored: label that means "not annotated"; with regions any number says that the target's
            last map marks what is not annotated.
        spacing: size of a pixel along each axis.
    """

    def __init__(
        self, main: WarmUp, *, regions: bool, ignored: int | None, spacing: Sequence[float]
    ) -> None:
        super().__init__()
        self.main, self.regions, self.ignored, self.spacing = main, regions, ignored, spacing

    def forward(
        self, outputs: Tensor | Sequence[Tensor], targets: Tensor | Sequence[Tensor]
    ) -> Float[Tensor, ""]:
        """Return the weighted sum over heads."""
        heads = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        truths = [targets] if isinstance(targets, Tensor) else list(targets)
        weights = head_weights(len(heads))
        total = weights[0] * self._judge(self.main, heads[0], truths[0], spacing=self.spacing)
        for weight, head, truth in zip(weights[1:], heads[1:], truths[1:], strict=True):
            total = total + weight * self._judge(ce_dice_loss, head, truth)
        return total

    def _judge(
        self, loss: Callable[..., Tensor], head: Tensor, target: Tensor, **more: Any
    ) -> Tensor:
        if not self.regions:
            return loss(head, target, ignore_index=self.ignored, **more)
        if self.ignored is None:
            return loss(head, target, sigmoid=True, **more)
        mask = target[:, -1] == 0
        return loss(head, target[:, :-1], sigmoid=True, mask=mask, **more)


def heads_loss(
    name: str,
    *,
    scnp: bool,
    regions: bool,
    ignored: int | None,
    spacing: Sequence[float],
) -> HeadsLoss:
    """Return a loss of the catalogue for nnU-Net, warmed up as the catalogue advises.

    Args:
        name: key of `LOSSES`.
        scnp: judge each pixel's worst neighbour.
        regions: whether channels are regions.
        ignored: label that means "not annotated".
        spacing: size of a pixel along each axis; its number says whether images or volumes.

    Raises:
        ConfigError: "loss.unknown_name"; "loss.needs_images" for a loss that has no version for
            volumes.
    """
    main = warmed_up(name)
    if len(spacing) not in LOSSES[name].dimensions:
        raise ConfigError(
            "loss.needs_images",
            f"The loss {name} has no version for {len(spacing)}D.",
            "Train the 2d configuration, or take another trainer.",
        )
    if scnp:
        main.loss = _worst_neighbours(main.loss)
    return HeadsLoss(main, regions=regions, ignored=ignored, spacing=tuple(spacing))


def _worst_neighbours(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def judged(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        return scnp_loss(logits, target, loss=loss, **options)

    return judged


def set_progress(loss: nn.Module | None, epoch: int, epochs: int) -> None:
    """Tell the loss how much of the training is done."""
    for part in loss.modules() if loss else ():
        if isinstance(part, WarmUp):
            part.progress = epoch / max(epochs, 1)
