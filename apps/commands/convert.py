"""Turn a foreign weight file (torch, pickle, numpy) into safetensors without running its code.

geo3d convert weights.pth                                beside it, weights.safetensors
geo3d convert controlnet.pth --unet TEACHER --out DIR    a ControlNet, as a folder of diffusers
geo3d convert ss.pt slat.pt --student-of MODEL           MDT-dist's students, into a TRELLIS folder
geo3d convert dinov2_vitl14_reg4_pretrain.pth --student-of MODEL     its image encoder
geo3d convert dinov2_vitl14_reg4_pretrain.pth            the encoder as a folder, for --encoder
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apps.commands import add_common, emit
from apps.running import require_files, require_folders
from geo3d.errors import ConfigError

if TYPE_CHECKING:
    from scenes.objects.published import Placed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``geo3d convert``."""
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="the .pt, .pth, .bin, .pkl, .npy or .npz file"
    )
    parser.add_argument(
        "--student-of",
        metavar="DIR",
        help="put published students of this pipeline's flows, and its image encoder, into it",
    )
    parser.add_argument(
        "--out", metavar="PATH", help="file or folder to write (default: beside the file)"
    )
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
    require_files(*args.files)
    if args.student_of:
        return _place(args)
    if len(args.files) > 1:
        raise ConfigError(
            "convert.several_files",
            f"{len(args.files)} files are converted one by one.",
            "Several files belong to --student-of DIR.",
        )
    (args.file,) = args.files
    if args.unet:
        return _convert_controlnet(args)
    from geo3d.convert import convert_file

    named = Path(args.out) if args.out else Path(args.file).with_suffix("")
    is_file = bool(args.out and named.suffix)
    out = named if is_file else named.with_name(f"{named.name}.safetensors")
    made = convert_file(args.file, out, inert=args.inert)
    if _is_torchhub(made.names) and not is_file:
        return _convert_encoder(args, made.path)
    payload = {
        "path": str(made.path),
        "tensors": list(made.names),
        "sha256": made.sha256,
        "source_sha256": made.source_sha256,
    }
    emit(args, payload, f"{made.path}: {len(made.names)} tensors, sha256 {made.sha256}")
    return 0


def _is_torchhub(names: Sequence[str]) -> bool:
    from scenes.objects.dino_names import is_torchhub

    return is_torchhub(dict.fromkeys(names))


def _convert_encoder(args: argparse.Namespace, weights: Path) -> int:
    """Make a folder for --encoder of torch.hub's DINOv2, converted into one file."""
    from scenes.objects.published import convert_encoder

    made = convert_encoder(weights, weights.with_suffix(""))
    weights.unlink()
    return _tell(args, [] if made is None else [made])


def _place(args: argparse.Namespace) -> int:
    require_folders(args.student_of)
    from scenes.objects.published import place

    return _tell(args, place(args.files, args.student_of))


def _tell(args: argparse.Namespace, placed: Sequence[Placed]) -> int:
    from geo3d.checkpoints import some

    lines = []
    for part in placed:
        lines.append(f"{part.path}: {part.role}, from {part.source}")
        if part.lacks:
            lines.append(f"  it does not work: {some(part.lacks)}")
    payload = [{**part._asdict(), "path": str(part.path)} for part in placed]
    emit(args, {"placed": payload}, "\n".join(lines))
    return 0


def _convert_controlnet(args: argparse.Namespace) -> int:
    require_folders(args.unet)
    from scenes.urban.teachers.convert_controlnet import convert_controlnet

    out = Path(args.out) if args.out else Path(args.file).with_suffix("")
    made = convert_controlnet(args.file, args.unet, out)
    emit(args, {"path": str(made)}, f"{made}: a ControlNet of {args.unet}, for --controlnet")
    return 0
