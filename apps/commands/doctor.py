"""Tell what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import argparse

from apps.commands import add_common, emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d doctor``."""
    add_common(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    from geo3d.backends import doctor_report, format_report

    report = doctor_report()
    emit(args, report, format_report(report))
    return 0
