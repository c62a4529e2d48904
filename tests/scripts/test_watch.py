"""make watch: in a real browser, and until Ctrl-C."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from gpt2.config.errors import UserError
from scripts import watch
from scripts.watching import server as server_module
from scripts.watching.server import WatchServer
from scripts.watching.view import WatchedMatrix
from tests.support.repository import REPOSITORY
from tests.support.synthetic import write_run
from tests.support.watched import write_matrix

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update",
)  # fmt: skip

pytestmark = pytest.mark.slow


def started(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Start it in a process of its own; return that and the address it prints."""
    process = subprocess.Popen(
        [sys.executable, "scripts/watch.py", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = process.stdout.readline() + process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/", lines)
    assert found, lines
    return process, found[0]


def test_it_serves_a_run_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a run", 1.5)
    process, address = started("--runs", str(tmp_path))
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            page = answer.read().decode()
        assert "a run" in page
        assert "1.5000" in page
        shutil.rmtree(run)
        with urllib.request.urlopen(address + "body?cell=x", timeout=30) as answer:
            assert "nothing to show now" in answer.read().decode()
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in said


@pytest.mark.parametrize("port", ["99999", "-1", "no"])
def test_a_port_is_a_number(port: str) -> None:
    with pytest.raises(UserError, match=f"{port} is not a port: give a number from 1024 to 65535"):
        watch.main([f"--port={port}"])


@pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")
def test_a_browser_shows_it_and_takes_in_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body is asked for again, which the page's policy must allow, and is laid out."""
    monkeypatch.setattr(server_module, "FRESH", 0.0)  # the browser's clock runs ahead here
    folder = write_matrix(tmp_path / "m", ("adamw-none", "adamw-magnitude-0.5"), seeds=4)
    watched, asked = WatchedMatrix(folder.path), list[str]()

    def body(cell: str) -> str:
        asked.append(cell)
        text = watch.matrix_body(watched.look(), cell)
        return f'<p id="asked">{"again" if len(asked) > 1 else "once"}</p>{text}'

    server = WatchServer(0, "a study", body)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        command = [
            str(BROWSER), *QUIET, f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=6000", "--dump-dom", f"{server.address}?cell=adamw-none-seed1",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        folder.close()
    assert set(asked) == {"adamw-none-seed1"}
    assert '<p id="asked">again</p>' in done.stdout
    assert "Matrix a study" in done.stdout
    assert done.stdout.count('class="cell ') == 8
    assert "make watch has ended" not in done.stdout.partition("<script>")[0]
