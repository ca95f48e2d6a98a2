"""What a ControlNet is shown of a layout: four channels as published, or an image of three.

Our conditions have the colours of classes in [-1, 1] and depth / 200 m.  Public ControlNets take
one image in [0, 1]:

* segmentation: the colours that ADE20K's 150 classes have in the models of that kind;
* depth: nearness 1 / z, divided by its largest in the image, three times; 0 where nothing is.

Source: Zhang et al. 2023 (ControlNet); Zhou et al. 2017 (ADE20K) for classes; the table of colours
is the usual one of segmentation tools.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.layout.classes import OTHER, PALETTE
from scenes.urban.teachers.checks import ControlInput

ADE20K: dict[int, tuple[int, int, int]] = {
    0: (0, 102, 200),  # car
    1: (150, 5, 61),  # person
    2: (255, 245, 0),  # bicycle
    3: (51, 0, 255),  # pole
    4: (173, 0, 255),  # ashcan
    5: (140, 140, 140),  # road
    6: (235, 255, 7),  # sidewalk
    7: (255, 31, 0),  # path
    8: (180, 120, 120),  # building
    9: (255, 184, 6),  # fence
    10: (4, 200, 3),  # tree
    11: (4, 250, 7),  # grass
    12: (120, 120, 70),  # earth
    OTHER: (120, 120, 120),  # wall
}
"""Colour of a class id of ours, with the name of ADE20K's class."""
SKY = (6, 230, 230)


def shown_condition(
    condition: Float[Tensor, "b 4 h w"], kind: ControlInput
) -> Float[Tensor, "b c h w"]:
    """Return what a ControlNet is shown of a condition of ours."""
    if kind == "segmentation":
        return _segmentation(condition[:, :3])
    return _nearness(condition[:, 3:]) if kind == "depth" else condition


def _segmentation(colours: Tensor) -> Tensor:
    """Exchange each colour for that of ADE20K; one between two classes for the nearer's."""
    ours = np.concatenate([PALETTE, np.zeros((1, 3))]) / 127.5 - 1
    theirs = np.array([*(ADE20K[id] for id in range(len(PALETTE))), SKY]) / 255
    near, best = torch.zeros(0), torch.zeros(0)
    for number, colour in enumerate(torch.from_numpy(ours).to(colours)):
        far = (colours - colour[:, None, None]).square().sum(dim=1)
        if number == 0:
            near, best = torch.zeros_like(far, dtype=torch.long), far
            continue
        near = torch.where(far < best, number, near)
        best = torch.minimum(far, best)
    return torch.from_numpy(theirs).to(colours)[near].permute(0, 3, 1, 2)


def _nearness(depth: Tensor) -> Tensor:
    near = torch.where(depth > 0, 1 / depth.clamp(min=1e-6), 0.0)
    largest = near.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    return (near / largest).expand(-1, 3, -1, -1)
