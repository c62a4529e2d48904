"""The line that a terminal shows while a matrix runs, and that nothing else ever shows it."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import pytest

from scripts.study import status_line
from scripts.study.folder import MatrixFolder
from scripts.study.status_line import StatusLine
from tests.support.small_cells import cell_record
from tests.support.terminal import Terminal


def shown(terminal: Terminal) -> str:
    """What stands in the last line of the terminal."""
    return terminal.getvalue().rpartition("\n")[2].rpartition("\r\x1b[K")[2]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    size = os.terminal_size((100, 24))
    monkeypatch.setattr(status_line.shutil, "get_terminal_size", lambda: size)
    monkeypatch.setattr(status_line, "INTERVAL", 0.0)
    monkeypatch.setenv("TERM", "xterm")


def write(folder: MatrixFolder, cell: str, steps: int) -> None:
    run = folder.run_dir(cell)
    run.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": s, "loss": 3.0 - s / 100, "elapsed": s / 2, "tokens_per_second": 13012.3}
        for s in range(1, steps + 1)
    ]
    lines[-1]["time"] = time.time()
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_it_shows_step_loss_speed_and_time_left(tmp_path: Path) -> None:
    folder, terminal = MatrixFolder(tmp_path), Terminal()
    line, said = StatusLine(folder, terminal), list[str]()
    say = line.wrap(said.append)
    cell = cell_record(name="muon-none-seed1", steps=1200)
    line.show([cell])
    assert shown(terminal) == "muon-none-seed1  starting"
    write(folder, cell.name, 100)
    line.show([cell])
    assert shown(terminal) == (
        "muon-none-seed1  step 100/1,200  loss 2.0000  13,012 tokens/s  9 min left"
    )
    say("another line")
    assert (said, shown(terminal)) == (["another line"], "")
    line.show([])
    assert shown(terminal) == "waiting"
    line.clear()
    assert shown(terminal) == ""


def test_several_cells_share_one_line_that_never_wraps(tmp_path: Path) -> None:
    folder, terminal = MatrixFolder(tmp_path), Terminal()
    cells = [cell_record(name=f"adamw-magnitude-0.9-seed{n}", steps=50) for n in range(4)]
    for cell in cells:
        write(folder, cell.name, 10)
    StatusLine(folder, terminal).show(cells)
    assert "adamw-magnitude-0.9-seed0  step 10/50  loss 2.9000  20 s left  |" in shown(terminal)
    assert len(shown(terminal)) == 99


@pytest.mark.parametrize("term", ["dumb", None])
def test_elsewhere_there_is_none(
    term: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream: io.StringIO = Terminal() if term else io.StringIO()
    monkeypatch.setenv("TERM", term or "xterm")
    line = StatusLine(MatrixFolder(tmp_path), stream)
    line.show([cell_record(name="one")])
    line.clear()
    assert stream.getvalue() == ""
