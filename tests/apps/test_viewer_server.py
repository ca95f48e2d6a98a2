"""The viewer's server: what it imports, serves and refuses, and the verb that starts it."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import serving

from apps.commands import app as app_verb
from geo3d.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_the_server_does_without_torch() -> None:
    code = "import sys, apps.viewer.match_tab; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The workbench as ``geo3d app`` serves it, and a file in its run folder."""
    runs = tmp_path_factory.mktemp("served")
    secret = runs / "jobs" / ("0" * 32) / "inputs" / "mine.ply"
    secret.parent.mkdir(parents=True)
    secret.write_text("secret")
    with serving(runs) as url:
        yield url, secret


@pytest.fixture
def address(served: tuple[str, Path]) -> str:
    return served[0]


class TestServedPage:
    def get(self, url: str, **headers: str) -> tuple[int, str, Any]:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
                return answer.status, answer.read().decode("utf-8", "replace"), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode("utf-8", "replace"), error.headers

    def test_the_page_has_no_foreign_address(self, address: str) -> None:
        status, text, _ = self.get(address)
        assert status == 200
        wanted = re.findall(r'(?:src|href)="(https?://[^"]+)"', text)
        assert [url for url in wanted if not url.startswith(address)] == []

    @pytest.mark.parametrize("path", ["/etc/passwd", "../app.py", "http://example.org/", "SECRET"])
    def test_no_file_of_the_machine_is_served(self, served: tuple[str, Path], path: str) -> None:
        address, secret = served
        wanted = path.replace("SECRET", str(secret))
        status, text, _ = self.get(f"{address}/gradio_api/file={wanted}")
        assert status in (403, 404)
        assert "secret" not in text
        assert "root:" not in text

    def test_no_function_is_offered_to_programs(self, address: str) -> None:
        status, text, _ = self.get(f"{address}/gradio_api/info")
        assert status == 200
        assert json.loads(text) == {"named_endpoints": {}, "unnamed_endpoints": {}}

    def test_analytics_and_history_are_off(self, address: str) -> None:
        config = json.loads(self.get(f"{address}/config")[1])
        assert config["analytics_enabled"] is False
        assert config["run_history"] is False
        assert config["show_error"] is False

    def test_other_sites_may_not_call(self, address: str) -> None:
        _, _, headers = self.get(f"{address}/config", Origin="http://evil.example")
        assert headers.get("access-control-allow-origin") is None

    def test_a_foreign_name_that_leads_here_gets_nothing(self, address: str) -> None:
        status, text, headers = self.get(
            f"{address}/config", Host="evil.example:7860", Origin="http://evil.example:7860"
        )
        assert status == 403 and "components" not in text
        assert headers.get("access-control-allow-origin") is None

    def test_a_function_that_is_not_there_is_no_fault_of_the_server(
        self, served: tuple[str, Path]
    ) -> None:
        address, secret = served
        body = json.dumps({"fn_index": 9999, "data": [], "session_hash": "a"}).encode()
        request = urllib.request.Request(
            f"{address}/gradio_api/queue/join", body, {"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        with caught.value as answer:
            assert answer.code == 404
        log = next(p for p in secret.parents if (p / "server.log").exists()) / "server.log"
        assert "Traceback" not in log.read_text()

    def test_large_uploads_are_refused(self, address: str) -> None:
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.obj"\r\n\r\n'
        host, port = address.removeprefix("http://").split(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=60)) as link:
            link.putrequest("POST", "/gradio_api/upload")
            link.putheader("Content-Type", "multipart/form-data; boundary=x")
            link.putheader("Content-Length", str(len(head) + 65 * 2**20))
            link.endheaders(head)
            # The server may answer and hang up before it has read everything.
            with contextlib.suppress(ConnectionError):
                for _ in range(65):
                    link.send(b"v 0 0 0\n" * 2**17)
            assert link.getresponse().status == 413


class TestVerb:
    def parse(self, *argv: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        app_verb.add_arguments(parser)
        return parser.parse_args(argv)

    def test_other_machines_are_kept_out_unless_asked_for(self) -> None:
        with pytest.raises(ConfigError) as caught:
            app_verb.run(self.parse("--host", "0.0.0.0"))
        assert caught.value.code == "app.not_loopback"

    @pytest.mark.parametrize("text", [None, b"", b"short\n", b"\xff\xfe\x00"])
    def test_a_password_is_a_readable_line(self, tmp_path: Path, text: bytes | None) -> None:
        path = tmp_path / "password"
        if text is not None:
            path.write_bytes(text)
        with pytest.raises(ConfigError) as caught:
            app_verb.run(self.parse("--password-file", str(path)))
        assert caught.value.code == "app.no_password"

    def test_a_server_for_all_addresses_knows_its_names(self) -> None:
        names = app_verb.own_names("0.0.0.0")
        assert socket.gethostname() in names and "localhost" in names

    def test_a_busy_port_is_named(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(ConfigError) as caught:
                app_verb.run(self.parse("--port", str(taken.getsockname()[1])))
        assert caught.value.code == "app.port_busy"

    def test_the_number_of_jobs_is_checked(self) -> None:
        with pytest.raises(ConfigError) as caught:
            app_verb.run(self.parse("--jobs", "0"))
        assert caught.value.code == "app.bad_jobs"
