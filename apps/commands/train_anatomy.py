"""Train the network that tells where on a body each vertex lies, on generated creatures.

  geo3d train anatomy --bodies DIR --workers 2      make the bodies, then train (half an hour)
  geo3d train anatomy --bodies DIR --creatures 40 --set steps=200
  geo3d train anatomy --resume runs/train-anatomy/RUN

An interrupted making of bodies is continued by the same command.
"""

from __future__ import annotations

import argparse

from apps.commands import show_run
from apps.examples import add_example_arguments, train_on_examples
from geo3d.runs import Run

SOURCE = "creatures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train anatomy``."""
    add_example_arguments(parser, "bodies", SOURCE)


def run(args: argparse.Namespace) -> int:
    """Make bodies, train in a run folder and print the numbers."""
    from shape_matching.anatomy.data import make_bodies
    from shape_matching.anatomy.training import AnatomyTrainingConfig, train_anatomy

    cls, make, train = AnatomyTrainingConfig, make_bodies, train_anatomy
    return train_on_examples(args, "train-anatomy", "bodies", cls, make, train, _show, SOURCE)


def _show(args: argparse.Namespace, done: Run) -> None:
    file, numbers = done.outputs / "anatomy.safetensors", done.numbers
    text = (
        f"{file}\n  distance x100 to the places of held-out bodies: mean "
        f"{numbers['gap_mean']:.1f}, median {numbers['gap_median']:.1f}\n  run: {done.path}"
    )
    show_run(args, done, text, anatomy=str(file))
