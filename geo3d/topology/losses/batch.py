"""What every loss works on: scores and target brought to one form, with what is annotated.

Notation: b batch, c channels, k channels that a topology term judges, space (h, w) or (d, h, w);
z scores, p probabilities, t true maps.

* Classes (softmax): c >= 2 channels exclude each other, channel 0 is the background.  A topology
  term judges each foreground class against the rest.
* Regions (sigmoid): every channel is a mask of its own, and masks may overlap.
* Pixels that are not annotated are outside the image: p and t are 0 there, sums leave them out,
  and no gradient reaches their scores.
* `spacing` is the size of a pixel along each axis; lengths inside losses are counted in units of
  the smallest one, so that (1, 1) and (0.5, 0.5) mean the same.

A loss is a function of a batch that returns one number per item, so that an item's number never
depends on what it is batched with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.nn.functional import logsigmoid

from geo3d.topology.losses.inputs import hard_labels, one_hot, probabilities


@dataclass(frozen=True, eq=False)
class Batch:
    """Scores of a batch and what they should be.

    Attributes:
        logits: raw scores, float32 or float64.
        target: labels, or maps of each channel; what lies where `inside` is false means nothing.
        inside: where the target is annotated; None: everywhere.
        regions: whether channels are masks of their own (sigmoid) rather than classes.
        background: whether channel 0 is judged; None: as each term was published.
        weight: one factor per channel; None: ones.
        spacing: relative size of a pixel along each axis, the smallest 1.
    """

    logits: Float[Tensor, "b c *space"]
    target: Shaped[Tensor, "b ..."]
    inside: Bool[Tensor, "b ..."] | None = None
    regions: bool = False
    background: bool | None = None
    weight: Float[Tensor, " c"] | None = None
    spacing: tuple[float, ...] = ()

    @property
    def n_dims(self) -> int:
        """Return the number of spatial axes."""
        return self.logits.ndim - 2

    @property
    def space(self) -> tuple[int, ...]:
        """Return the spatial axes of the scores, for sums."""
        return tuple(range(2, self.logits.ndim))

    @cached_property
    def p(self) -> Float[Tensor, "b c *space"]:
        """Return the probabilities, 0 where nothing is annotated."""
        if self.regions:
            return self.within(torch.sigmoid(self.logits))
        return self.within(probabilities(self.logits))

    @cached_property
    def truth(self) -> Float[Tensor, "b c *space"]:
        """Return the true maps without gradient, 0 where nothing is annotated."""
        return self.within(one_hot(self.target, self.logits).detach())

    @cached_property
    def labels(self) -> Int64[Tensor, "b ..."]:
        """Return the class of each pixel (of soft classes the likeliest); -1: not annotated."""
        labels = hard_labels(self.target)
        return labels if self.inside is None else torch.where(self.inside, labels, -1)

    @cached_property
    def log_p(self) -> tuple[Float[Tensor, "b c *space"], Float[Tensor, "b c *space"]]:
        """Return log p and log (1 - p), without overflow; not cut to what is annotated."""
        z = self.logits
        if self.regions:
            return logsigmoid(z), logsigmoid(-z)
        yes = torch.log_softmax(z, dim=1)
        others = [torch.cat((z[:, :k], z[:, k + 1 :]), dim=1) for k in range(z.shape[1])]
        no = torch.stack([torch.logsumexp(rest, dim=1) for rest in others], dim=1)
        return yes, no - torch.logsumexp(z, dim=1, keepdim=True)

    def within(self, values: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        """Return values with 0 where nothing is annotated."""
        if self.inside is None:
            return values
        return torch.where(self.inside[:, None], values, torch.zeros_like(values[:1, :1]))

    @cached_property
    def judged(self) -> range:
        """Return the channels that a topology term judges."""
        n = self.logits.shape[1]
        first = not self.background if self.background is not None else not self.regions
        return range(int(first) if n > 1 else 0, n)

    @cached_property
    def overlapped(self) -> range:
        """Return the channels that an overlap term such as Dice judges."""
        n = self.logits.shape[1]
        return range(1 if self.background is False and n > 1 else 0, n)

    @cached_property
    def own(self) -> Float[Tensor, "b k *space"]:
        """Return the probabilities of the judged channels."""
        return self.p[:, self.judged.start :]

    @cached_property
    def wanted(self) -> Float[Tensor, "b k *space"]:
        """Return the true maps of the judged channels."""
        return self.truth[:, self.judged.start :]

    @cached_property
    def true_masks(self) -> Bool[np.ndarray, "b k *space"]:
        """Return the true mask of each judged channel, on the CPU."""
        return self.masks_of(self.judged)

    def masks_of(self, channels: range) -> Bool[np.ndarray, "b n *space"]:
        """Return the true masks of some channels, on the CPU; a soft truth counts above 1/2."""
        if self.regions:
            return (self.truth[:, channels.start :] > 0.5).cpu().numpy()
        labels = self.labels.cpu().numpy()
        return np.stack([labels == c for c in channels], axis=1)

    @cached_property
    def guesses(self) -> Bool[np.ndarray, "b k *space"]:
        """Return the predicted mask of each judged channel: the likeliest class, or p > 1/2."""
        if self.regions:
            return (self.own.detach() > 0.5).cpu().numpy()
        found = self.logits.detach().argmax(dim=1)
        if self.inside is not None:
            found = torch.where(self.inside, found, -1)
        labels = found.cpu().numpy()
        return np.stack([labels == c for c in self.judged], axis=1)

    @cached_property
    def outside(self) -> Bool[np.ndarray, "b ..."] | None:
        """Return what is not annotated, on the CPU; None where everything is."""
        return None if self.inside is None else (~self.inside).cpu().numpy()

    @cached_property
    def count(self) -> Float[Tensor, "b 1"]:
        """Return the annotated pixels of each item, at least 1."""
        if self.inside is None:
            size = prod(self.logits.shape[2:])
            return self.logits.new_full((len(self.logits), 1), size)
        return self.inside.flatten(1).sum(dim=1, keepdim=True).clamp(min=1).to(self.logits)

    def pixel_mean(self, values: Float[Tensor, "b n *space"]) -> Float[Tensor, "b n"]:
        """Return the mean over the annotated pixels of values that are 0 elsewhere."""
        return values.sum(dim=self.space) / self.count

    def channel_mean(
        self, values: Float[Tensor, "b n"], channels: range | None = None
    ) -> Float[Tensor, " b"]:
        """Return the mean over channels, each times its weight.

        Args:
            values: one number per item and channel.
            channels: which channels they belong to; None: the judged ones.
        """
        if self.weight is not None:
            start = self.judged.start if channels is None else channels.start
            values = values * self.weight[start:]
        return values.mean(dim=1)

    def entropy_at(self, chosen: Bool[np.ndarray, "b k *space"]) -> Float[Tensor, "b k"]:
        """Return the mean cross-entropy, channel against rest, over chosen pixels; 0 if none."""
        marks = torch.from_numpy(chosen).to(self.logits.device)
        item, channel, *at = marks.nonzero(as_tuple=True)
        column = (channel + self.judged.start)[:, None]
        scores = self.logits[(item, slice(None), *at)]
        truth = self.truth[(item, slice(None), *at)].gather(1, column)[:, 0]
        own = scores.gather(1, column)
        if self.regions:
            yes, no = logsigmoid(own[:, 0]), logsigmoid(-own[:, 0])
        else:
            # log p and log (1 - p) in one step each, so that nothing overflows.
            total = torch.logsumexp(scores, dim=1)
            rest = torch.logsumexp(scores.scatter(1, column, -torch.inf), dim=1)
            yes, no = own[:, 0] - total, rest - total
        entropy = -(truth * yes + (1 - truth) * no)
        counts = marks.flatten(2).sum(dim=2)
        sums = torch.zeros(counts.numel(), dtype=entropy.dtype, device=entropy.device)
        sums = sums.index_add(0, item * counts.shape[1] + channel, entropy)
        return sums.reshape(counts.shape) / counts.clamp(min=1)
