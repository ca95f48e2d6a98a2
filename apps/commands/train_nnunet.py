"""Train nnU-Net v2 with a loss of topology; all a user writes is the trainer's name.

geo3d train nnunet 1 2d 0 --trainer nnUNetTrainerClDiceSCNP
geo3d train nnunet --list                             names of the trainers

Plan and preprocess the data with nnU-Net first (nnUNetv2_plan_and_preprocess), whose variables
nnUNet_raw, nnUNet_preprocessed and nnUNet_results hold.  To use nnU-Net's own verbs, to predict for
example, set nnUNet_extTrainer to the folder that --list prints first.
"""

from __future__ import annotations

import argparse
import ast
import os
from functools import partial
from pathlib import Path

import geo3d
from apps.commands import emit
from geo3d.errors import BackendUnavailable, ConfigError

FOLDER = Path(geo3d.__file__).parent / "segmentation" / "nnunet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train nnunet``."""
    parser.add_argument("dataset", nargs="?", help="number or name of the dataset")
    parser.add_argument("configuration", nargs="?", help="2d, 3d_fullres ...")
    parser.add_argument("fold", nargs="?", help="0 to 4, or all")
    parser.add_argument("--trainer", default="nnUNetTrainerClDice", metavar="NAME")
    parser.add_argument("--plans", default="nnUNetPlans", metavar="NAME")
    parser.add_argument("--device", choices=("cuda", "cpu", "mps"), help="cuda where there is one")
    parser.add_argument("--continue", dest="goes_on", action="store_true", help="go on")
    parser.add_argument("--list", action="store_true", help="folder and names of the trainers")
    parser.add_argument("--json", action="store_true", help="with --list, as JSON")


def trainer_names() -> list[str]:
    """Return the names of the trainers, without importing nnU-Net."""
    tree = ast.parse((FOLDER / "trainers.py").read_text("utf-8"))
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return sorted(name for name in classes if name.startswith("nnUNet"))


def run(args: argparse.Namespace) -> int:
    """Hand the training to nnU-Net."""
    if args.list:
        names = trainer_names()
        emit(args, {"folder": str(FOLDER), "trainers": names}, "\n".join([str(FOLDER), *names]))
        return 0
    if not (args.dataset and args.configuration and args.fold):
        raise ConfigError(
            "nnunet.incomplete",
            "Dataset, configuration and fold are needed.",
            "For example: geo3d train nnunet 1 2d 0 --trainer nnUNetTrainerClDice",
        )
    others = os.environ.get("nnUNet_extTrainer")
    folders = [str(FOLDER)] if others is None else [str(FOLDER), *others.split(os.pathsep)]
    os.environ["nnUNet_extTrainer"] = os.pathsep.join(dict.fromkeys(folders))
    try:
        from nnunetv2.run import run_training as nnunet
    except ImportError as error:
        raise BackendUnavailable(
            "nnunet.missing", f"nnU-Net is not installed ({error}).", "pip install 'geo3d[nnunet]'"
        ) from error
    if args.trainer in trainer_names():
        from geo3d.segmentation.nnunet import trainers

        # nnU-Net looks through all its own trainers first, some of which need more packages.
        nnunet.recursive_find_trainer_class_by_name = partial(getattr, trainers)
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    nnunet.run_training(
        args.dataset,
        args.configuration,
        args.fold,
        trainer_class_name=args.trainer,
        plans_identifier=args.plans,
        continue_training=args.goes_on,
        device=torch.device(device),
    )
    return 0
