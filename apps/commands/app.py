"""Open the workbench in a browser, served to this machine only (127.0.0.1)."""

from __future__ import annotations

import argparse
import ipaddress
import socket
import sys

from geo3d.errors import ConfigError

DEFAULT_PORT = 7860


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d app``."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help=f"port, 0 for any free one (default {DEFAULT_PORT})",
    )
    parser.add_argument(
        "--runs", metavar="DIR", default="runs", help="folder for jobs and results (default runs/)"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="jobs that run at once (default 1)"
    )
    parser.add_argument("--open", action="store_true", help="open a browser window")
    parser.add_argument(
        "--allow-network",
        action="store_true",
        help="permit a --host that other machines can reach; there is no login, anyone who "
        "reaches it can start jobs and read results",
    )


def run(args: argparse.Namespace) -> int:
    """Serve the workbench until interrupted.

    Raises:
        ConfigError: ``app.not_loopback``, ``app.port_busy``, ``app.bad_jobs``.
        BackendUnavailable: gradio is not installed.
    """
    if not is_loopback(args.host):
        if not args.allow_network:
            raise ConfigError(
                "app.not_loopback",
                f"--host {args.host} can be reached from other machines, and there is no login.",
                "Keep 127.0.0.1 and use an SSH tunnel, or add --allow-network.",
            )
        print(
            f"warning: anyone who reaches {args.host} can start jobs and read all results.",
            file=sys.stderr,
        )
    if args.jobs < 1:
        raise ConfigError("app.bad_jobs", f"--jobs is {args.jobs}.", "Give 1 or more.")
    port = usable_port(args.host, args.port)

    from geo3d.backends import require

    require("gradio")
    from apps.viewer.app import serve

    print(f"geo3d workbench: http://{args.host}:{port}  (Ctrl-C ends it)", flush=True)
    serve(args.host, port, args.runs, max_running=args.jobs, open_browser=args.open)
    return 0


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches ``host``.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost")
    (True, True, True)
    >>> is_loopback("0.0.0.0"), is_loopback("192.168.1.4"), is_loopback("example.org")
    (False, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def usable_port(host: str, port: int) -> int:
    """Return ``port`` if it is free at ``host``, or any free one for 0.

    Raises:
        ConfigError: ``app.port_busy``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port that a finished server used a moment ago counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                "app.port_busy",
                f"Cannot listen at {host}, port {port}: {error}.",
                "Another workbench may be open there; choose another --port, 0 for any.",
            ) from error
        return int(probe.getsockname()[1])
