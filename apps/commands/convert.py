"""Turn a foreign weight file (torch, pickle, numpy) into safetensors without running its code.

geo3d convert weights.pth                                beside it, weights.safetensors
geo3d convert controlnet.pth --unet TEACHER --out DIR    a ControlNet, as a folder of diffusers
"""

from __future__ import annotations

import argparse
from pathlib import Path

from apps.commands import add_common, emit
from apps.running import require_files, require_folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``geo3d convert``."""
    parser.add_argument("file", help="the .pt, .pth, .bin, .pkl, .npy or .npz file")
    parser.add_argument("--out", metavar="FILE", help="where to write (default: beside the file)")
    parser.add_argument(
        "--inert",
        metavar="MODULE",
        action="append",
        default=[],
        help="read objects of this module's classes as plain attributes; '*' for any",
    )
    parser.add_argument(
        "--unet",
        metavar="DIR",
        help="the file is a ControlNet of this teacher: write a folder (also from .safetensors)",
    )
    add_common(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Convert one file and say what came out."""
    require_files(args.file)
    if args.unet:
        return _convert_controlnet(args)
    from geo3d.convert import convert_file

    out = Path(args.out) if args.out else Path(args.file).with_suffix(".safetensors")
    made = convert_file(args.file, out, inert=args.inert)
    payload = {
        "path": str(made.path),
        "tensors": list(made.names),
        "sha256": made.sha256,
        "source_sha256": made.source_sha256,
    }
    emit(args, payload, f"{made.path}: {len(made.names)} tensors, sha256 {made.sha256}")
    return 0


def _convert_controlnet(args: argparse.Namespace) -> int:
    require_folders(args.unet)
    from scenes.urban.teachers.convert_controlnet import convert_controlnet

    out = Path(args.out) if args.out else Path(args.file).with_suffix("")
    made = convert_controlnet(args.file, args.unet, out)
    emit(args, {"path": str(made)}, f"{made}: a ControlNet of {args.unet}, for --controlnet")
    return 0
