"""The losses whose gradient maps can be drawn, by name, without importing any of them.

Importing the losses themselves takes torch; a page that only lists them does not need that.  A test
compares this list with `geo3d.segmentation.loss_maps.losses_with_maps`.
"""

from __future__ import annotations

LOSS_MAP_HINTS = {
    "ce_dice": "every wrong or unsure pixel; no topology",
    "region_wise": "wrong pixels, weighted by their distance to the border",
    "cl_dice": "centre lines that are missed or not in the label",
    "skeleton_recall": "parts of the label's skeleton that are missed",
    "cb_dice": "centre lines and borders, thin lines weighing as much as thick ones",
    "scnp": "the worst neighbour of each pixel of the same class",
    "warping": "pixels that must change for the topology to change",
    "topo_win": "pixels that join or cut what lies between the lines",
    "cavity": "holes that are closed or open where they should not be",
    "topo_loss": "births and deaths of components and holes that should not be, or should",
    "betti_matching": "components and holes without a partner in the label",
    "topo_grad": "components and holes beyond the number wanted",
    "cl_ce": "wrong pixels on the centre lines of label and prediction",
    "blob": "components that are missed, small ones as much as large ones",
    "euler": "where components minus holes are not those of the label",
    "signed_distance": "pixels whose sureness does not follow their distance to the edge",
    "topograph": "regions that join, cut, fill or open something",
    "cape": "gaps on the cheapest way along the label",
}
"""Name of the loss and what its map shows."""
