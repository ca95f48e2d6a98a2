"""Train the model that says how probable a map is right, from maps whose truth is known.

  geo3d train confidence --outcomes DIR --workers 2     make the outcomes, then train (an hour)
  geo3d train confidence --outcomes DIR --pairs 40 --set steps=300
  geo3d train confidence --resume runs/train-confidence/RUN

An interrupted making of outcomes is continued by the same command.
"""

from __future__ import annotations

import argparse

from apps.commands import show_run
from apps.examples import add_example_arguments, train_on_examples
from geo3d.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d train confidence``."""
    add_example_arguments(parser, "outcomes")


def run(args: argparse.Namespace) -> int:
    """Make outcomes, train in a run folder and print the numbers."""
    from shape_matching.confidence.data import make_outcomes
    from shape_matching.confidence.training import ConfidenceTrainingConfig, train_confidence

    cls, make, train = ConfidenceTrainingConfig, make_outcomes, train_confidence
    return train_on_examples(args, "train-confidence", "outcomes", cls, make, train, _show)


def _show(args: argparse.Namespace, done: Run) -> None:
    file, numbers = done.outputs / "confidence.safetensors", done.numbers
    text = (
        f"{file}\n  maps of the search kept aside: {numbers['chosen']}, of which "
        f"{numbers['chosen_right']:.0%} are right; area under ROC {numbers['chosen_auc']:.3f}, "
        f"{numbers['wrong_flagged']:.0%} of the wrong ones flagged, {numbers['false_alarms']:.0%} "
        f"of the right ones, calibration error {numbers['calibration_error']:.3f}\n  with maps "
        f"that were forced to be wrong: {numbers['maps']}, area under ROC "
        f"{numbers['maps_auc']:.3f}\n  folds of the others ({numbers['folds_maps']}): area under "
        f"ROC {numbers['folds_auc']:.3f}, {numbers['folds_wrong_flagged']:.0%} flagged, "
        f"{numbers['folds_false_alarms']:.0%} false alarms; below "
        f"{numbers['folds_threshold']:.2f} lie 95 % of the wrong ones\n  vertices: area "
        f"under ROC {numbers['vertex_auc']:.3f}, calibration error "
        f"{numbers['vertex_calibration_error']:.3f}\n  run: {done.path}"
    )
    show_run(args, done, text, confidence=str(file))
