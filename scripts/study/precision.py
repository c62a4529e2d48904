"""One precision for all cells of a matrix on a CPU, where --precision auto would measure in each.

The result of auto may differ between two cells: the machine may be loaded during one of them. So it
is decided once, before the first cell, and stored in the cells' flags.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gpt2.config.errors import UserError
from gpt2.config.text import last_line
from gpt2.config.typed import Config
from gpt2.files.json import read_record
from gpt2.machine.processor import has_bf16
from gpt2.planning.calibration import LEAST_WIDTH
from gpt2.run_dir.records import RunRecord
from scripts.study.cells import Cell, Matrix
from scripts.study.folder import MatrixFolder

_FLAG = "--precision"
#: The output of train.py --measure-precision about a CPU.
_ANSWER = re.compile(r"auto takes (fp32|bf16) on this CPU")
_PATIENCE = 300


def pin_precision(
    matrix: Matrix,
    folder: MatrixFolder,
    train: Sequence[str],
    here: Path,
    say: Callable[[str], None],
    measure: bool | None,
) -> None:
    """Give the cells in which auto would measure the present choice; begun cells keep theirs.

    Without `measure`, only a choice in the folder is used: a plan changes nothing. None: the cells
    run on other machines, of which this one knows nothing; --device cpu is fp32 there.
    """
    there = measure is None
    open_ = [c for c in matrix.cells if (there or has_bf16()) and _asks(c.config, there)]
    if not open_:
        return
    before: dict[str, str | None] = {}
    if (folder.path / "matrix.json").exists():
        before = {cell.name: _given(cell.flags) for cell in folder.matrix().cells}
    begun = {cell.name for cell in open_ if folder.run_dir(cell.name).exists()}
    earlier = next((name for name in before.values() if name), None)
    if earlier is None:  # cells that began before CPUs were measured, or on a GPU
        earlier = next(filter(None, (_recorded(folder.run_dir(name)) for name in begun)), None)
    if earlier is None and there:
        say("precision of all cells on CPUs: fp32; give --precision bf16 if all nodes have it")
        earlier = "fp32"
    elif earlier is None and measure:
        earlier = _measured([*train, *open_[0].flags, "--measure-precision"], here, say)
    for place, cell in enumerate(matrix.cells):
        chosen = before.get(cell.name) if cell.name in begun else earlier
        if chosen and _asks(cell.config, there):
            matrix.cells[place] = _with(cell, chosen)


def _asks(config: Config, there: bool) -> bool:
    """Return whether auto considers bf16, if the cell runs on a CPU.

    `there`: on another machine, which may have a GPU.
    """
    return (
        config.optim.precision == "auto"
        and config.machine.device in (("cpu",) if there else ("auto", "cpu"))
        and config.model.n_embd >= LEAST_WIDTH
    )


def _recorded(run: Path) -> str | None:
    """Return the precision recorded by a run on a CPU; None on a GPU, or without a record."""
    try:
        record = read_record(run / "run.json", RunRecord, "")
    except (OSError, UserError):
        return None
    return record.precision if record.device == "cpu" else None


def _given(flags: Sequence[str]) -> str | None:
    """Return the precision in a cell's flags."""
    return flags[flags.index(_FLAG) + 1] if _FLAG in flags else None


def _with(cell: Cell, precision: str) -> Cell:
    optim = replace(cell.config.optim, precision=precision)
    config = replace(cell.config, optim=optim)
    return replace(cell, flags=(*cell.flags, _FLAG, precision), config=config)


def _measured(command: Sequence[str], here: Path, say: Callable[[str], None]) -> str | None:
    """Let train.py measure; None where the cells do not run on a CPU, or it fails, with a line."""
    try:
        done = subprocess.run(
            command, cwd=here, capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        say(f"precision: no measurement after {_PATIENCE} s; each cell decides by itself")
        return None
    if done.returncode:
        say(f"precision: cannot be measured: {last_line(done.stderr.strip())}")
        return None
    found = _ANSWER.match(done.stdout)
    if found:
        say(f"precision of all cells: {done.stdout.strip()}")
    return found[1] if found else None
