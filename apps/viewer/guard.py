"""What stands between the network and the workbench: who may ask, from where, and how much.

An ASGI application around the page's own.  A request passes if

* it names this server (`Host`), so a foreign name that resolves to this machine reaches nothing
  (DNS rebinding);
* no other site made the browser send it: `Origin` must be this server's own wherever it is given,
  and a post must give it or say nothing of a browser; `Sec-Fetch-Site` may not say that
  another site embeds or fetches something;
* it knows the key, where one was set (a server that other machines can reach): in the address
  once (``?token=``), in a cookie after that, or as password (HTTP basic authentication);
* what it uploads fits into the quota.

Every answer forbids frames, and anything that is not this server's own.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
HEADERS = (
    # Gradio starts its page by an inline script and compiles what gr.HTML draws; nothing may
    # come from, or be sent to, any other server.
    (
        "content-security-policy",
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
        "worker-src 'self' blob:; frame-src 'none'; object-src 'none'; base-uri 'self'; "
        "form-action 'self'; frame-ancestors 'none'",
    ),
    ("x-frame-options", "DENY"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
)
_UPLOAD = re.compile(r"/upload/?$")
_HOST = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/\s]+)(?::(\d{1,5}))?$")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """Who may ask for what.

    Attributes:
        hosts: names and addresses of this server that `Host` may have, at any port (a tunnel
            may lead from another one).
        uploads: folder of uploads; None counts nothing.
        quota: bytes that the folder of uploads may hold.
        token: key that every request must bring; None asks for none.
        password: another way to bring the key.
        cookie: name of the cookie that keeps the key; one per port, since cookies have none.
    """

    hosts: frozenset[str]
    uploads: Path | None = None
    quota: int = 2**30
    token: str | None = None
    password: str | None = None
    cookie: str = "geo3d-key"


def host_names(names: Iterable[str]) -> frozenset[str]:
    """Return names as `Rules.hosts` compares them.

    >>> sorted(host_names(["LocalHost.", "::1"]))
    ['::1', 'localhost']
    """
    return frozenset(name.lower().strip("[]").rstrip(".") for name in names)


def guarded(app: App, rules: Rules) -> App:
    """Return ``app`` behind ``rules``."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        headers = _headers(scope)
        refused = (
            _wrong_host(headers, rules)
            or _foreign(scope, headers)
            or _too_much(headers, scope, rules)
        )
        if refused is None and rules.token is not None:
            known, given = _brings_key(scope, headers, rules)
            if given:
                await _enter(scope, send, rules)
                return
            refused = None if known else _unknown(rules)
        if refused is not None:
            _log.info("refused %s: %s", scope["path"], refused[1])
            await _refuse(scope, send, *refused)
            return
        await app(scope, receive, _hardened(send))

    return guard


Refusal = tuple[int, str] | None


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _one(headers: dict[str, list[str]], name: str) -> str | None:
    """Return a header's value; two different ones are none that can be trusted."""
    values = headers.get(name, [])
    return values[0] if len(values) == 1 else None


def _wrong_host(headers: dict[str, list[str]], rules: Rules) -> Refusal:
    match = _HOST.match(_one(headers, "host") or "")
    if match is not None and match[1].lower().strip("[]").rstrip(".") in rules.hosts:
        return None
    return 403, "This workbench does not answer to that host name; see --allow-host."


def _foreign(scope: Scope, headers: dict[str, list[str]]) -> Refusal:
    """Refuse what a page of another site, or of another port, makes the browser send."""
    own = (_one(headers, "host") or "").lower()
    reads = scope["type"] == "http" and scope["method"] in SAFE_METHODS
    site = _one(headers, "sec-fetch-site")
    foreign = 403, "Pages of other sites may not use this workbench."
    if "origin" in headers:
        origin = urlsplit((_one(headers, "origin") or "").lower())
        return None if origin.netloc == own and origin.scheme in ("http", "https") else foreign
    if site in (None, "same-origin", "none"):
        return None
    # A link on another page may lead here; nothing else may come from there.
    visits = _one(headers, "sec-fetch-mode") == "navigate" and _one(headers, "sec-fetch-dest") in (
        None,
        "document",
    )
    return None if reads and visits and scope["path"] == "/" else foreign


def _too_much(headers: dict[str, list[str]], scope: Scope, rules: Rules) -> Refusal:
    """Refuse an upload that does not say its length, or would not fit beside the others."""
    if rules.uploads is None or scope["type"] != "http" or scope["method"] in SAFE_METHODS:
        return None
    if not _UPLOAD.search(scope["path"]):
        return None
    length = _one(headers, "content-length") or ""
    if not length.isdecimal():
        return 411, "An upload must say its length."
    held = sum(p.stat().st_size for p in rules.uploads.rglob("*") if p.is_file())
    if held + int(length) <= rules.quota:
        return None
    return 413, (
        f"The files that were dropped on this page fill its quota of {rules.quota / 2**20:.0f} MB; "
        "they are removed a day after they came, or when the workbench is started anew."
    )


def _brings_key(scope: Scope, headers: dict[str, list[str]], rules: Rules) -> tuple[bool, bool]:
    """Tell whether the request knows the key, and whether it brings it in the address."""
    token = rules.token or ""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    if any(_same(given, token) for given in query.get("token", [])):
        return True, scope["type"] == "http" and scope["method"] == "GET"
    cookies: SimpleCookie = SimpleCookie()
    for text in headers.get("cookie", []):
        try:
            cookies.load(text)
        except CookieError:
            continue
    if rules.cookie in cookies and _same(cookies[rules.cookie].value, token):
        return True, False
    kind, _, text = (_one(headers, "authorization") or "").partition(" ")
    if rules.password is not None and kind.lower() == "basic":
        try:
            said = base64.b64decode(text, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False, False
        return _same(said, rules.password), False
    return False, False


def _same(given: str, wanted: str) -> bool:
    """Compare in a time that does not depend on how much is right."""
    return secrets.compare_digest(given.encode(), wanted.encode())


def _unknown(rules: Rules) -> tuple[int, str]:
    if rules.password is not None:
        return 401, "Open the address with its token, or give the password."
    return 401, "Open the whole address that `geo3d app` printed, with its token."


async def _enter(scope: Scope, send: Send, rules: Rules) -> None:
    """Keep the key in a cookie, and show the page without it in its address."""
    kept = [
        part
        for part in scope["query_string"].decode("latin-1").split("&")
        if not part.startswith("token=")
    ]
    # The path alone could begin with two slashes, which lead to another server.
    where = "/" + scope["path"].lstrip("/") + (f"?{'&'.join(kept)}" if kept else "")
    cookie = f"{rules.cookie}={rules.token}; Path=/; HttpOnly; SameSite=Strict"
    headers = [("location", where), ("set-cookie", cookie), ("cache-control", "no-store")]
    await _answer(send, 303, "", headers)


async def _refuse(scope: Scope, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    asks = [("www-authenticate", 'Basic realm="geo3d"')] if "password" in text else []
    await _answer(send, status, text, asks)


async def _answer(send: Send, status: int, text: str, headers: list[tuple[str, str]]) -> None:
    body = text.encode()
    all_headers = [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", str(len(body))),
        *headers,
        *HEADERS,
    ]
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in all_headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _hardened(send: Send) -> Send:
    """Return ``send`` with the headers that every answer carries."""
    own = {name for name, _ in HEADERS}

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            kept = [
                pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in own
            ]
            extra = [(name.encode(), value.encode()) for name, value in HEADERS]
            message = {**message, "headers": [*kept, *extra]}
        await send(message)

    return sending
