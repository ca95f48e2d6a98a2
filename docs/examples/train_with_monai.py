"""A MONAI training with clDice of overlapping regions, ignored pixels and topology metrics.

    python docs/examples/train_with_monai.py

Sixteen drawn images with two regions (a ring, and the ring with what it encloses), a MONAI U-Net, a
few dozen steps on a CPU.  Put your own loader in place of `drawn_items`.
"""

from __future__ import annotations

import sys

import torch
from monai.data import DataLoader, Dataset
from monai.networks.nets import BasicUNet
from monai.transforms import Compose, RandFlipd, RandGaussianNoised

from geo3d.topology.losses import ClDiceLoss, warmed_up
from geo3d.topology.monai_metrics import TopologyMetric

IGNORED = 255.0


def drawn_items(count: int, side: int = 32, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Draw grey images and their two region maps; one corner is not annotated."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    items = []
    for _ in range(count):
        y, x, outer = (torch.rand(3, generator=generator) * torch.tensor([8, 8, 3])).tolist()
        distance = torch.hypot(rows - 12 - y, columns - 12 - x)
        filled = distance < 8 + outer
        ring = filled & (distance > 5 + outer)
        image = ring.float() + 0.3 * torch.randn(side, side, generator=generator)
        maps = torch.stack([ring, filled]).float()
        maps[:, :4, :4] = IGNORED
        items.append({"image": image[None], "label": maps})
    return items


def train(steps: int = 60) -> tuple[float, float, torch.Tensor]:
    """Train; return clDice at first and at last, and the Betti errors of held-out images."""
    torch.manual_seed(0)
    augment = Compose(
        [RandFlipd(("image", "label"), prob=0.5, spatial_axis=0), RandGaussianNoised("image", 0.3)]
    )
    loader = DataLoader(Dataset(drawn_items(16), augment), batch_size=4, shuffle=True)
    network = BasicUNet(2, in_channels=1, out_channels=2, features=(8, 8, 16, 16, 32, 8))
    options = {"sigmoid": True, "ignore_index": int(IGNORED)}
    loss = ClDiceLoss(alpha=0.3, **options)
    # Betti matching is dear, so it comes last, behind clDice.
    late = warmed_up("betti_matching", **options)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses: list[float] = []
    while len(losses) < steps:
        for batch in loader:
            late.progress = len(losses) / steps
            scores = network(batch["image"])
            value = loss(scores, batch["label"])
            optimizer.zero_grad()
            (value + 0.1 * late(scores, batch["label"])).backward()
            optimizer.step()
            losses.append(float(value.detach()))
    metric = TopologyMetric("betti_errors", include_background=True)
    network.eval()
    with torch.no_grad():
        for item in drawn_items(4, seed=1):
            predicted = network(item["image"][None]) > 0
            truth = torch.where(item["label"] == IGNORED, 0, item["label"])[None]
            metric(y_pred=predicted.float(), y=truth)
    return losses[0], sum(losses[-5:]) / 5, metric.aggregate()


if __name__ == "__main__":
    first, last, errors = train()
    sys.stdout.write(f"loss {first:.3f} -> {last:.3f}, Betti errors {errors.tolist()}\n")
