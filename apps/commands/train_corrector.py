"""Train the corrector, which mends the maps that the search finds, on generated creatures.

  geo3d train corrector --examples DIR --workers 2      make the examples, then train (an hour)
  geo3d train corrector --examples DIR --pairs 40 --set steps=200
  geo3d train corrector --resume runs/train-corrector/RUN

An interrupted making of examples is continued by the same command.
"""

from __future__ import annotations

import argparse

from apps.commands import show_run
from apps.examples import add_example_arguments, train_on_examples
from geo3d.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train corrector``."""
    add_example_arguments(parser, "examples")


def run(args: argparse.Namespace) -> int:
    """Make examples, train in a run folder and print the numbers."""
    from shape_matching.corrector.data import make_examples
    from shape_matching.corrector.training import CorrectorTrainingConfig, train_corrector

    cls, make, train = CorrectorTrainingConfig, make_examples, train_corrector
    return train_on_examples(args, "train-corrector", "examples", cls, make, train, _show)


def _show(args: argparse.Namespace, done: Run) -> None:
    file, numbers = done.outputs / "corrector.safetensors", done.numbers
    text = (
        f"{file}\n  distance to the true maps of held-out pairs: "
        f"{numbers['distance_before']:.2f} as found, {numbers['distance_after']:.2f} corrected; "
        f"{numbers['share_better']:.0%} became better\n  run: {done.path}"
    )
    show_run(args, done, text, corrector=str(file))
