"""Trainers of nnU-Net v2, one per loss: `geo3d train nnunet 1 2d 0 --trainer nnUNetTrainerClDice`.

nnU-Net finds a trainer by its name in the folders that nnUNet_extTrainer lists; this file lies in
one.  Everything but the loss is nnU-Net's: plans, network, augmentation, schedule, checkpoints.
Isensee et al., nnU-Net (2021).
"""

from __future__ import annotations

from typing import ClassVar

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from geo3d.segmentation.nnunet.supervision import HeadsLoss, heads_loss, set_progress


class TopologyTrainer(nnUNetTrainer):
    """A trainer with a loss of the catalogue; subclasses name it."""

    loss_name: ClassVar[str] = "ce_dice"
    scnp: ClassVar[bool] = False

    def _build_loss(self) -> HeadsLoss:
        manager = self.label_manager
        return heads_loss(
            self.loss_name,
            scnp=self.scnp,
            regions=manager.has_regions,
            ignored=manager.ignore_label,
            spacing=self.configuration_manager.spacing,
        )

    def on_train_epoch_start(self) -> None:
        """Tell the loss how far the training is."""
        super().on_train_epoch_start()
        set_progress(self.loss, self.current_epoch, self.num_epochs)


class nnUNetTrainerSCNP(TopologyTrainer):
    """Cross-entropy and Dice of each pixel's worst neighbour."""

    scnp = True


class nnUNetTrainerClDiceSCNP(TopologyTrainer):
    """clDice of each pixel's worst neighbour."""

    loss_name, scnp = "cl_dice", True


class nnUNetTrainerClDice(TopologyTrainer):
    """`cl_dice` of the catalogue."""

    loss_name = "cl_dice"


class nnUNetTrainerSkeletonRecall(TopologyTrainer):
    """`skeleton_recall` of the catalogue."""

    loss_name = "skeleton_recall"


class nnUNetTrainerCbDice(TopologyTrainer):
    """`cb_dice` of the catalogue."""

    loss_name = "cb_dice"


class nnUNetTrainerRegionWise(TopologyTrainer):
    """`region_wise` of the catalogue."""

    loss_name = "region_wise"


class nnUNetTrainerWarping(TopologyTrainer):
    """`warping` of the catalogue."""

    loss_name = "warping"


class nnUNetTrainerTopoWindow(TopologyTrainer):
    """`topo_win` of the catalogue."""

    loss_name = "topo_win"


class nnUNetTrainerCavity(TopologyTrainer):
    """`cavity` of the catalogue."""

    loss_name = "cavity"


class nnUNetTrainerTopoLoss(TopologyTrainer):
    """`topo_loss` of the catalogue."""

    loss_name = "topo_loss"


class nnUNetTrainerBettiMatching(TopologyTrainer):
    """`betti_matching` of the catalogue."""

    loss_name = "betti_matching"


class nnUNetTrainerTopoGrad(TopologyTrainer):
    """`topo_grad` of the catalogue."""

    loss_name = "topo_grad"


class nnUNetTrainerCentrelineCE(TopologyTrainer):
    """`cl_ce` of the catalogue."""

    loss_name = "cl_ce"


class nnUNetTrainerBlob(TopologyTrainer):
    """`blob` of the catalogue."""

    loss_name = "blob"


class nnUNetTrainerEuler(TopologyTrainer):
    """`euler` of the catalogue."""

    loss_name = "euler"


class nnUNetTrainerSignedDistance(TopologyTrainer):
    """`signed_distance` of the catalogue."""

    loss_name = "signed_distance"


class nnUNetTrainerTopograph(TopologyTrainer):
    """`topograph` of the catalogue."""

    loss_name = "topograph"


class nnUNetTrainerPath(TopologyTrainer):
    """`cape` of the catalogue."""

    loss_name = "cape"
