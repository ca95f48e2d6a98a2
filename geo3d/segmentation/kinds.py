"""What images and labels of a set are like: dimensions, channels, classes or regions.

Notation: c classes, r regions, *space (h, w) or (d, h, w).

* Classes exclude each other: a pixel's label is the number of its class, 0 is the background.  A
  network gives c scores per pixel and a softmax.
* Regions are unions of labels and may overlap, as in nnU-Net ("whole tumour" holds 1, 2 and 3).  A
  network gives r scores and a sigmoid each.
* `IGNORED` in a label map marks pixels that count neither in training nor in measuring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

IGNORED = 255
"""Label of pixels that do not count."""


@dataclass(frozen=True)
class DataKind:
    """What images and labels of a set are like; the default is TopoMortar's."""

    classes: tuple[str, ...] = ("brick", "mortar")
    """Names of the classes, the background first; with regions the names of these."""
    regions: tuple[tuple[int, ...], ...] = ()
    """Labels that each region holds; empty where classes exclude each other."""
    channels: int = 3
    """Of an image."""
    dimensions: int = 2
    """2 for images, 3 for volumes."""
    spacing: tuple[float, ...] = ()
    """Size of a pixel along each axis where all images agree; empty: not known, or unequal."""

    @property
    def is_binary(self) -> bool:
        """Whether there is one foreground class, against a background."""
        return not self.regions and len(self.classes) == 2

    @property
    def foreground(self) -> tuple[str, ...]:
        """Names of what is measured: classes but the background, or regions."""
        return self.classes if self.regions else self.classes[1:]

    def masks(self, labels: Shaped[np.ndarray, "*space"]) -> dict[str, Bool[np.ndarray, "*space"]]:
        """Return the mask of each foreground class or region of a label map."""
        if self.regions:
            named = zip(self.classes, self.regions, strict=True)
            return {name: np.isin(labels, held) for name, held in named}
        return {name: labels == k for k, name in enumerate(self.classes) if k > 0}

    def predicted(
        self, probabilities: Float[np.ndarray, " c *space"]
    ) -> dict[str, Bool[np.ndarray, "*space"]]:
        """Return the mask of each foreground class or region of probabilities."""
        if self.regions:
            return {name: probabilities[k] > 0.5 for k, name in enumerate(self.classes)}
        if len(probabilities) == 2:
            return {self.classes[1]: probabilities[1] > probabilities[0]}
        return self.masks(probabilities.argmax(axis=0))

    def label_map(self, probabilities: Float[np.ndarray, " c *space"]) -> UInt8[np.ndarray, ...]:
        """Return the labels to be written to a file.

        Regions are painted one over the other in their order, each with the label that it alone
        adds to the regions painted after it, as nnU-Net does: list large regions first.
        """
        if not self.regions:
            return probabilities.argmax(axis=0).astype(np.uint8)
        labels = np.zeros(probabilities.shape[1:], dtype=np.uint8)
        for k, held in enumerate(self.regions):
            later = {label for other in self.regions[k + 1 :] for label in other}
            own = [label for label in held if label not in later] or list(held)
            labels[probabilities[k] > 0.5] = own[0]
        return labels

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a file of weights."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataKind:
        """Return what `to_dict` gave."""
        return cls(
            classes=tuple(str(name) for name in values["classes"]),
            regions=tuple(tuple(int(v) for v in held) for held in values["regions"]),
            channels=int(values["channels"]),
            dimensions=int(values["dimensions"]),
            spacing=tuple(float(v) for v in values["spacing"]),
        )


WALLS = DataKind()
"""Colour images of walls, mortar against brick."""
