"""The server: two addresses for this machine by its own name, and nothing else."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gpt2.config.errors import UserError
from scripts.watching import server as module
from scripts.watching.server import WatchServer

Answer = tuple[int, str, dict[str, str]]


class Asked:
    """A server, and what its body was asked for."""

    def __init__(self) -> None:
        self.cells: list[str] = []
        self.server = WatchServer(0, "a title", self.body)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def body(self, cell: str) -> str:
        self.cells.append(cell)
        return f"<p>body {len(self.cells)}</p>"

    def __call__(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=10)
        connection.request(
            method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text, dict(answer.getheaders())


@pytest.fixture
def ask() -> Iterator[Asked]:
    asked = Asked()
    yield asked
    asked.server.shutdown()
    asked.thread.join()
    asked.server.server_close()


def test_it_listens_on_loopback_alone(ask: Asked) -> None:
    assert ask.server.server_address[0] == "127.0.0.1"
    assert ask.server.address == f"http://127.0.0.1:{ask.server.server_port}/"


def test_the_page_and_its_body(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    status, text, headers = ask("/?cell=adamw-none-seed1")
    assert (status, ask.cells) == (200, ["adamw-none-seed1"])
    assert "<title>a title</title>" in text
    assert "<p>body 1</p>" in text
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers
    status, text, headers = ask("/body?cell=adamw-none-seed1")
    assert (status, text) == (200, "<p>body 1</p>")  # as it was, less than a second ago
    tag = headers["ETag"]
    assert ask("/body?cell=adamw-none-seed1", If_None_Match=tag)[:2] == (304, "")
    monkeypatch.setattr(module, "FRESH", 0.0)
    assert ask("/body?cell=adamw-none-seed1", If_None_Match=tag)[:2] == (200, "<p>body 2</p>")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "/../../etc/passwd", "/%2e%2e/etc/passwd", "//etc/passwd", "/body/",
        "/body/..", "/metrics.jsonl", "/watch.css", "/index.html", "/.%00/", "*",
    ],
)  # fmt: skip
def test_no_other_address_has_anything(path: str, ask: Asked) -> None:
    assert ask(path)[0] == 404
    assert ask.cells == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "CONNECT"])
def test_no_other_method(method: str, ask: Asked) -> None:
    assert ask("/", method)[0] == 501
    assert ask.cells == []


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost", ""])
def test_another_name_that_leads_here_is_refused(host: str, ask: Asked) -> None:
    assert ask("/", Host=host)[0] == 403
    assert ask("/body", Host=host)[0] == 403
    assert ask.cells == []
    assert ask("/", Host=f"localhost:{ask.server.server_port}")[0] == 200


def test_one_that_says_nothing_holds_nobody_up(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", ask.server.server_port), timeout=10) as silent:
        silent.sendall(b"GET / HT")
        assert ask("/body")[0] == 200
        begun = time.monotonic()
        assert silent.recv(100) == b""  # closed from there
        assert time.monotonic() - begun < 5.0


def test_a_port_that_is_taken_is_one_clear_line(ask: Asked) -> None:
    taken = ask.server.server_port
    with pytest.raises(UserError, match=f"PORT={taken}: cannot be used: Address already in use"):
        WatchServer(taken, "", lambda _: "")
