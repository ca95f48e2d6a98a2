"""Open the workbench in a browser, served to this machine only (127.0.0.1)."""

from __future__ import annotations

import argparse
import functools
import ipaddress
import secrets
import socket
import sys
import webbrowser
from pathlib import Path

from geo3d.errors import ConfigError

DEFAULT_PORT = 7860
MIN_PASSWORD = 8
_INET = (socket.AF_INET, socket.AF_INET6)


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
        help="permit a --host that other machines can reach; whoever has the address with its "
        "token, or the password, can start jobs and read results",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of this machine by which the page may be opened; may be repeated",
    )
    parser.add_argument(
        "--password-file",
        metavar="FILE",
        help="file whose first line opens the page too, beside the token in the address",
    )


def run(args: argparse.Namespace) -> int:
    """Serve the workbench until interrupted.

    Raises:
        ConfigError: ``app.not_loopback``, ``app.port_busy``, ``app.bad_jobs``, ``app.no_password``.
        BackendUnavailable: gradio is not installed.
    """
    if not is_loopback(args.host) and not args.allow_network:
        raise ConfigError(
            "app.not_loopback",
            f"--host {args.host} can be reached from other machines.",
            "Keep 127.0.0.1 and use an SSH tunnel, or add --allow-network.",
        )
    if args.jobs < 1:
        raise ConfigError("app.bad_jobs", f"--jobs is {args.jobs}.", "Give 1 or more.")
    password = None if args.password_file is None else _password(args.password_file)
    port = usable_port(args.host, args.port)

    from geo3d.backends import require

    require("gradio")
    require("psutil")
    from apps.viewer.app import serve
    from apps.viewer.guard import Rules, host_names

    locked = password is not None or not is_loopback(args.host)
    token = secrets.token_urlsafe(24) if locked else None
    names = own_names(args.host)
    rules = Rules(
        host_names([*names, *args.allow_host]),
        token=token,
        password=password,
        cookie=f"geo3d-key-{port}",
    )
    shown = f"[{names[0]}]" if ":" in names[0] else names[0]
    address = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
    print(f"geo3d workbench: {address}  (Ctrl-C ends it)", flush=True)
    if not is_loopback(args.host):
        print(
            "warning: whoever has this address can start jobs and read all results, and what is "
            "sent is not encrypted.",
            file=sys.stderr,
        )
    opened = functools.partial(webbrowser.open, address) if args.open else lambda: None
    serve(args.host, port, args.runs, rules, max_running=args.jobs, opened=opened)
    return 0


def _password(path: str) -> str:
    try:
        password = Path(path).read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "app.no_password", f"Cannot read {path}: {error}.", "Give a text file."
        ) from error
    if len(password) < MIN_PASSWORD:
        raise ConfigError(
            "app.no_password",
            f"The first line of {path} has {len(password)} characters.",
            f"Give a password of at least {MIN_PASSWORD}.",
        )
    return password


def own_names(host: str) -> list[str]:
    """Return the names and addresses by which a server at ``host`` is rightly called, the one to
    show first.

    >>> own_names("127.0.0.1")
    ['127.0.0.1', 'localhost', '::1']
    >>> own_names("192.0.2.7")
    ['192.0.2.7']
    """
    loopback = ["127.0.0.1", "localhost", "::1"]
    if is_loopback(host):
        return [host, *(name for name in loopback if name != host)]
    if host not in ("0.0.0.0", "::", ""):
        return [host]
    import psutil

    interfaces = psutil.net_if_addrs().values()
    inet = [a.address for found in interfaces for a in found if a.family in _INET]
    reachable = [a.partition("%")[0] for a in inet if not is_loopback(a.partition("%")[0])]
    return [*reachable, socket.gethostname(), socket.getfqdn(), *loopback]


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
