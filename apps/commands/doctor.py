"""Tell what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import argparse
from pathlib import Path

from apps.commands import add_common, emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d doctor``."""
    parser.add_argument("--model", metavar="DIR", help="what this pipeline of objects lacks")
    parser.add_argument("--encoder", metavar="DIR", help="folder of its image encoder")
    add_common(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    from geo3d.backends import doctor_report, format_report

    if args.model:
        return _model(args)
    report = doctor_report()
    emit(args, report, format_report(report))
    return 0


def _model(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from scenes.objects.folder_check import missing_parts

    missing = missing_parts(args.model, args.encoder)
    has_student = (Path(args.model) / "student.json").is_file()
    if has_student:
        told = set(missing)
        also = missing_parts(args.model, args.encoder, variant="student")
        missing += [part for part in also if part not in told]
    lines = [f"  missing  {part.what}: {part.why}\n           -> {part.hint}" for part in missing]
    lines = lines or [f"Nothing is missing in {args.model}."]
    if not has_student:
        lines.append(
            "It has no few-step students (student.json): geo3d convert STRUCTURE.pt LATENT.pt "
            f"--student-of {args.model}"
        )
    payload = {"model": args.model, "missing": [asdict(part) for part in missing]}
    emit(args, {**payload, "has_student": has_student}, "\n".join(lines))
    return 0
