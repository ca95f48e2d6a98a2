"""Open the workbench in a browser, served to this machine only (127.0.0.1)."""

from __future__ import annotations

import argparse

from apps.commands import add_common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d app``."""
    parser.add_argument("--port", type=int, default=7860, help="port (default 7860)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser window")
    add_common(parser, "out", "device")


def run(args: argparse.Namespace) -> int:
    """Serve the workbench until interrupted."""
    from geo3d.backends import require

    require("gradio")
    from apps.viewer.app import launch

    launch(port=args.port, open_browser=not args.no_browser, root=args.out, device=args.device)
    return 0
