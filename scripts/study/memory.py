"""The memory that cells take: by the plan of train.py before one has run, then as they had it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.config.sizes import show_size
from scripts.study.folder import MatrixFolder
from scripts.study.state import results

#: Seconds after which a plan, which takes a few, is given up.
_PATIENCE = 600


@dataclass(frozen=True)
class Memory:
    """Peak memory of a cell, in bytes."""

    host: int
    device: int


def predicted_memory(folder: MatrixFolder, cells: Iterable[Mapping[str, Any]]) -> dict[str, Memory]:
    """Return the peak memory of each kind of cell.

    As finished cells and short runs had it; of a kind that none was made of, as it was planned.
    """
    found: dict[str, Memory] = {}

    def take(kind: str, peaks: Mapping[str, Any]) -> None:
        host, device = int(peaks["peak_host_bytes"]), int(peaks["peak_device_bytes"])
        known = found.get(kind, Memory(0, 0))
        found[kind] = Memory(max(host, known.host), max(device, known.device))

    for kind, probe in folder.probes().items():
        take(kind, probe)
    for cell in cells:
        if folder.finished(cell["name"]):
            take(cell["kind"], results(folder, cell["name"]))
    planned = {
        kind: Memory(told["host"], 0 if told["device"] == "cpu" else told["needed"])
        for kind, told in folder.plans().items()
    }
    return {**planned, **found}


def make_plans(
    folder: MatrixFolder,
    cells: Iterable[Mapping[str, Any]],
    train: Sequence[str],
    here: Path,
    say: Callable[[str], None],
) -> None:
    """Have train.py plan a cell of each kind that nothing is known of; plans.json keeps it.

    A kind that cannot be planned is named, and its first cell then runs alone. Raises UserError,
    exit 6, when a cell cannot fit this machine even with nothing else running.
    """
    measured, known = folder.probes(), folder.plans()
    first = {cell["kind"]: cell for cell in reversed(list(cells))}
    problems = []
    for kind, cell in reversed(first.items()):
        if kind in measured or known.get(kind, {}).get("flags") == cell["flags"]:
            continue
        told = _plan([*train, *cell["flags"], "--plan-json"], here)
        if isinstance(told, str):
            say(f"the memory of {kind} is not known before it runs: {told}")
        elif told["pool_most"] is not None and told["needed"] > told["pool_most"]:
            ways = [f"it fits with {flags}" for flags in told["fixes"]]
            problems.append(
                f"cells of {kind} need {show_size(told['needed'])}, and {told['pool']} gives at "
                f"most {show_size(told['pool_most'])}: "
                + ("; or ".join(ways) or "choose a smaller --model or --block-size")
            )
        else:
            known[kind] = {**told, "flags": cell["flags"]}
            folder.write_json("plans.json", known)
    if problems:
        raise UserError(*problems, code=Exit.MEMORY)


def _plan(command: Sequence[str], here: Path) -> dict[str, Any] | str:
    """Return what train.py plans; in words why it does not."""
    try:
        done = subprocess.run(
            command, cwd=here, capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return f"no plan after {_PATIENCE} s"
    if done.returncode not in (Exit.OK, Exit.MEMORY):
        last = done.stderr.strip().splitlines()[-1:]
        return f"exit code {done.returncode}: {''.join(last)}"
    try:
        told = json.loads(done.stdout)
    except ValueError:
        return f"train.py --plan-json printed no JSON: {done.stdout[:100]!r}"
    wanted = ("host", "needed", "device", "pool", "pool_most", "fixes")
    return {key: told[key] for key in wanted}
