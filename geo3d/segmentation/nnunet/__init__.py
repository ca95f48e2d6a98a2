"""nnU-Net v2 trained with the losses of topology: a trainer class per loss, found by its name."""
