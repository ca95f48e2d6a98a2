"""Maps that turn the surface over, begun anew so that they do not.

The lowest eigenfunctions of a body with thin limbs cannot tell its front from its back, or a limb
from its twisted self.  So a search by them may hold the right map only as one that exchanges front
and back: its low part is right, the rest is mirrored.  Cut to that low part and refined with
normals (`shape_matching.search.coupled`), which must face the same way, it becomes the right map.

Notation as in `geo3d.spectral.fmap`; n maps.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.spectral.zoomout import sizes
from shape_matching.search.coupled import coupled_pass, points_of, spectral_maps
from shape_matching.search.prepare import Prepared

K_LOW = 8
"""Size of the part that is kept: on bodies these functions tell limbs and sides apart."""
STEP, SETTLING = 4, 2
"""Growth per pass, and passes before it."""


def outwards(
    fmaps_12: Float[Tensor, "n k k"], one: Prepared, two: Prepared, n_samples: int
) -> Float[Tensor, "n k k"]:
    """Return the maps begun anew from their low part, as refined with normals."""
    sides = points_of(one, one.samples[:n_samples]), points_of(two, two.samples[:n_samples])
    k = fmaps_12.shape[-1]
    low = min(K_LOW, k)
    schedule = [*[low] * SETTLING, *sizes(low, k, STEP)]
    found = []
    for fmap in fmaps_12:
        maps = spectral_maps(fmap[:low, :low], *sides)
        for size in schedule:
            maps = coupled_pass(maps, *sides, size, (1.0, 1.0))
        found.append(sides[1].fit(sides[0].rows[maps[0], :k], k))
    return torch.stack(found)
