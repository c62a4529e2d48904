"""The memory of cells: by train.py's plan before one has run, then as measured."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2.config.errors import Exit, UserError
from gpt2.config.records import from_json
from gpt2.config.sizes import show_size
from gpt2.config.text import last_line
from gpt2.files.json import parse
from scripts.study.folder import MatrixFolder
from scripts.study.machine import environment_on
from scripts.study.records import CellPlan, CellRecord, MemoryPlan, Probe, RunCosts
from scripts.study.state import results

#: Seconds after which a plan, which takes a few, is given up.
_PATIENCE = 600


@dataclass(frozen=True)
class Memory:
    """Peak memory of a cell, in bytes."""

    host: int
    device: int


def predicted_memory(folder: MatrixFolder, cells: Iterable[CellRecord]) -> dict[str, Memory]:
    """Return the peak memory of each kind of cell.

    As measured in finished cells and short runs; without these, as planned.
    """
    measured: dict[str, Memory] = {}

    def take(kind: str, costs: Probe | RunCosts) -> None:
        known = measured.get(kind, Memory(0, 0))
        host = max(costs.peak_host_bytes, known.host)
        device = costs.peak_process_bytes or costs.peak_device_bytes
        measured[kind] = Memory(host, max(device, known.device))

    for kind, probe in folder.probes().items():
        take(kind, probe)
    for cell in cells:
        if folder.finished(cell.name):
            take(cell.kind, results(folder, cell.name))
    planned = {
        kind: Memory(plan.host, 0 if plan.device == "cpu" else plan.needed)
        for kind, plan in folder.plans().items()
    }
    return {**planned, **measured}


def make_plans(
    folder: MatrixFolder,
    cells: Iterable[CellRecord],
    train: Sequence[str],
    here: Path,
    say: Callable[[str], None],
    gpu: str = "",
) -> None:
    """Let train.py plan a cell of each unknown kind, and store the plans in plans.json.

    The plan is for `gpu`, in terms of CUDA_VISIBLE_DEVICES. A kind that cannot be planned is named,
    and its first cell then runs alone. Raises UserError, exit 6, when a cell cannot fit this
    machine even with nothing else running.
    """
    measured, known = folder.probes(), folder.plans()
    first = {cell.kind: cell for cell in reversed(list(cells))}
    problems = []
    for kind, cell in reversed(first.items()):
        if kind in measured or (kind in known and known[kind].flags == cell.flags):
            continue
        plan = _plan([*train, *cell.flags, "--plan-json"], here, gpu)
        if isinstance(plan, str):
            say(f"the memory of {kind} is not known before it runs: {plan}")
        elif plan.pool_most is not None and plan.needed > plan.pool_most:
            ways = [f"it fits with {flags}" for flags in plan.fixes]
            problems.append(
                f"cells of {kind} need {show_size(plan.needed)}, and {plan.pool} gives at "
                f"most {show_size(plan.pool_most)}: "
                + ("; or ".join(ways) or "choose a smaller --model or --block-size")
            )
        else:
            known[kind] = _of_cell(plan, cell)
            folder.write_plans(known)
    if problems:
        raise UserError(*problems, code=Exit.MEMORY)


def _plan(command: Sequence[str], here: Path, gpu: str) -> MemoryPlan | str:
    """Return train.py's plan, or why there is none."""
    try:
        done = subprocess.run(
            command,
            cwd=here,
            env=environment_on(gpu),
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return f"no plan after {_PATIENCE} s"
    if done.returncode not in (Exit.OK, Exit.MEMORY):
        return f"exit code {done.returncode}: {last_line(done.stderr.strip())}"
    try:
        return from_json(MemoryPlan, parse(done.stdout))
    except ValueError as error:
        return f"train.py --plan-json printed no plan ({error}): {done.stdout[:100]!r}"


def _of_cell(plan: MemoryPlan, cell: CellRecord) -> CellPlan:
    """Return a plan as in plans.json."""
    return CellPlan(
        host=plan.host,
        needed=plan.needed,
        device=plan.device,
        pool=plan.pool,
        pool_most=plan.pool_most,
        fixes=plan.fixes,
        flags=cell.flags,
    )
