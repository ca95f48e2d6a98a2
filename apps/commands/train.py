"""Train one of the networks: ``geo3d train WHAT --help`` tells more about each.

  geo3d train prior --data maps                  go on after an interruption with --resume RUN

Students of image-to-3D are trained by `geo3d distill`.
"""

from __future__ import annotations

import argparse

from apps.commands import add_parts

PARTS = {
    "prior": "the spectral prior of zero-shot matching",
    "corrector": "the corrector, which mends the maps that the search finds",
    "anatomy": "where on a body each vertex lies, for shapes of different kinds",
    "confidence": "how sure a map is: its probability, and that of every vertex",
    "segmenter": "a segmenter of mortar, with any of the topology losses",
    "wall-score": "how probable it is that an image shows a wall, for a segmenter of mortar",
    "nnunet": "nnU-Net v2 with a loss of topology, by the trainer's name",
    "objects": "the parts of the small image-to-3D pipeline",
    "street-teacher": "the small teacher of street scenes",
    "street-segmenter": "the segmenter that judges street scenes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be trained, each with its flags."""
    add_parts(parser, "train", PARTS)


def run(args: argparse.Namespace) -> int:
    """Train."""
    return args.run_part(args)
