"""Who may ask the workbench for what."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from apps.viewer.guard import Rules, guarded, host_names

HERE = Rules(host_names(["127.0.0.1", "localhost", "::1"]))
LOCKED = Rules(HERE.hosts, token="key", password="open sesame", cookie="geo3d-key-7860")


async def _page(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"x-frame-options", b"ALLOWALL"), (b"x-own", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"the page"})


def ask(
    rules: Rules, method: str = "GET", path: str = "/", query: str = "", **headers: str
) -> tuple[int, dict[str, str], str]:
    given = {"host": "127.0.0.1:7860", **{k.replace("_", "-"): v for k, v in headers.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    asyncio.run(guarded(_page, rules)(scope, receive, send))
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], head, sent[1]["body"].decode()


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost", "LOCALHOST.:1", "[::1]:7860", "127.0.0.1:80"]
)
def test_own_names_at_any_port_are_answered(host: str) -> None:
    assert ask(HERE, host=host)[::2] == (200, "the page")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "127.0.0.1:7860, evil.example",
        "192.168.1.4:7860",
        "2130706433",
        "[::1].evil.example",
        "0.0.0.0:7860",
        "",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_foreign_names_that_lead_here_reach_nothing(host: str, method: str) -> None:
    """As where DNS is bound anew (case `host-rebinding`)."""
    status, head, body = ask(HERE, method, host=host)
    assert status == 403 and "the page" not in body
    assert "access-control-allow-origin" not in head


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://127.0.0.1:8000",
        "http://localhost:7860",
        "null",
        "file://",
        "http://127.0.0.1:7860.evil.example",
        "ftp://127.0.0.1:7860",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_pages_of_other_origins_may_not_ask(method: str, origin: str) -> None:
    assert ask(HERE, method, "/gradio_api/queue/join", origin=origin)[0] == 403


def test_the_own_page_and_programs_may_post() -> None:
    path = "/gradio_api/queue/join"
    assert ask(HERE, "POST", path, origin="http://127.0.0.1:7860")[0] == 200
    assert ask(HERE, "POST", path, origin="http://localhost:8", host="localhost:8")[0] == 200
    assert ask(HERE, "POST", path, sec_fetch_site="same-origin")[0] == 200
    assert ask(HERE, "POST", path)[0] == 200  # no browser


def test_other_sites_may_link_to_the_page_and_no_more() -> None:
    visit = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert ask(HERE, sec_fetch_dest="document", **visit)[0] == 200
    assert ask(HERE, sec_fetch_dest="iframe", **visit)[0] == 403
    assert ask(HERE, "POST", sec_fetch_dest="document", **visit)[0] == 403
    assert ask(HERE, path="/config", sec_fetch_dest="document", **visit)[0] == 403
    embeds = {"sec_fetch_mode": "no-cors", "sec_fetch_dest": "script"}
    assert ask(HERE, path="/config", sec_fetch_site="same-site", **embeds)[0] == 403


def test_every_answer_forbids_frames_and_foreign_content() -> None:
    for answer in (ask(HERE), ask(HERE, host="evil.example"), ask(LOCKED)):
        policy = answer[1]["content-security-policy"]
        assert "frame-ancestors 'none'" in policy and "default-src 'self'" in policy
        assert answer[1]["x-frame-options"] == "DENY"
    assert ask(HERE)[1]["x-own"] == "1"


class TestKey:
    def test_without_it_nothing_is_shown(self) -> None:
        for asked in ({}, {"query": "token=wrong"}, {"cookie": "geo3d-key-7860=wrong"}):
            status, head, body = ask(LOCKED, path="/config", **asked)
            assert (status, "the page" in body) == (401, False)
            assert head["www-authenticate"].startswith("Basic")
        assert "www-authenticate" not in ask(Rules(HERE.hosts, token="key"))[1]

    def test_the_address_gives_a_cookie_and_loses_the_key(self) -> None:
        status, head, _ = ask(LOCKED, query="job=1&token=key")
        assert (status, head["location"]) == (303, "/?job=1")
        cookie = head["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert ask(LOCKED, path="/config", cookie=f"a=b; {cookie.partition(';')[0]}")[0] == 200
        assert ask(LOCKED, path="//evil.example/", query="token=key")[1]["location"] == (
            "/evil.example/"
        )

    def test_the_password_opens_too(self) -> None:
        def basic(text: str) -> str:
            return "Basic " + base64.b64encode(text.encode()).decode()

        assert ask(LOCKED, authorization=basic("anyone:open sesame"))[0] == 200
        assert ask(LOCKED, authorization=basic("anyone:close sesame"))[0] == 401
        assert ask(LOCKED, authorization="Basic ???")[0] == 401

    def test_the_key_opens_to_no_other_site(self) -> None:
        cookie = "geo3d-key-7860=key"
        assert ask(LOCKED, "POST", cookie=cookie, origin="http://evil.example")[0] == 403


def test_uploads_stop_at_the_quota(tmp_path: Path) -> None:
    rules = Rules(HERE.hosts, uploads=tmp_path, quota=100)
    path = "/gradio_api/upload"
    assert ask(rules, "POST", path, content_length="100")[0] == 200
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.obj").write_bytes(b"x" * 60)
    assert ask(rules, "POST", path, content_length="40")[0] == 200
    status, _, body = ask(rules, "POST", path, content_length="41")
    assert status == 413 and "quota" in body
    assert ask(rules, "POST", path)[0] == 411
    assert ask(rules, "POST", "/gradio_api/queue/join", content_length="41")[0] == 200
