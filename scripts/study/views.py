"""The texts about a matrix: the plan, its status, and a table of results."""

from __future__ import annotations

import math
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gpt2.config.sizes import show_size
from gpt2.config.text import counted, last_line, rough_duration
from gpt2.files.lock import holder
from gpt2.run_dir.folder import read_metrics
from scripts.flags import words
from scripts.study import machine
from scripts.study.admission import disk_need
from scripts.study.at_work import is_measuring
from scripts.study.cells import Matrix
from scripts.study.folder import MatrixFolder
from scripts.study.forecast import SHORT_STEPS, seconds
from scripts.study.memory import predicted_memory
from scripts.study.pinned import pinned_notes
from scripts.study.quick import continuation
from scripts.study.records import CellRecord, CellResults, MatrixRecord
from scripts.study.slurm import shown
from scripts.study.spec import typed
from scripts.study.state import CellState, progress, results, states

_SHOWN = 12


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return lines of aligned columns, the first to the left and the others to the right."""
    whole = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in whole) for column in range(len(head))]
    lines = []
    for row in whole:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def plan(folder: MatrixFolder, matrix: Matrix, record: MatrixRecord) -> list[str]:
    """Return the plan: axes, cells in order, what is left out and why, time, memory, disk."""
    spec = matrix.spec
    lines = [f"matrix {spec.name}: {len(matrix.cells)} runs in {folder.path}"]
    for option, values in spec.axes.items():
        lines.append(f"  axis {typed(option)}: {', '.join(values)}")
    loop = "outer loop: half a matrix has every cell, with half of the seeds"
    lines.append(f"  seeds: {', '.join(map(str, spec.seeds))} ({loop})")
    if spec.controls:
        added = ", ".join([*spec.added, "small dense models"])
        lines.append(f"  added as controls: {added} (not without MATRIX_CONTROLS)")
    seeds = ", ".join(map(str, spec.tuning_seeds))
    if spec.tune:
        space = "; ".join(f"{typed(tuned.option)} {tuned.text}" for tuned in spec.tune)
        lines.append(
            f"  every row is tuned first: {spec.trials} trials of {space}, with seeds {seeds}"
        )
        runs = round(sum(map(record.chance, record.cells)))
        lines.append(f"  {runs} of these will run; the others are trials that are not chosen")
    elif spec.tuned:
        lines.append(f"  the learning rate is chosen first, by the dense runs of seeds {seeds}")
    same = [f for f in _common(matrix) if f]
    lines += [f"  all cells: {shlex.join(same)}"] if same else []
    lines += ["", *_plan_table(folder, record), ""]
    lines += _some("left out", [f"{label}: {why}" for label, why in matrix.left_out])
    lines += _some("equal, so run once", [f"{one} is {other}" for one, other in matrix.shared])
    for option, cells in matrix.inactive.items():
        why = next(iter(cells.values()))
        where = "every cell" if len(cells) == len(_labels(record)) else f"{len(cells)} cells"
        lines.append(f"{typed(option)} has no effect in {where}: it needs {why}")
    lines += [f"note: {note}" for note in pinned_notes(spec)]
    return lines + _totals(folder, record)


def _labels(record: MatrixRecord) -> list[str]:
    return list(dict.fromkeys(cell.label for cell in record.cells))


def _without_trial(cell: CellRecord, record: MatrixRecord) -> str:
    """Return a cell's label without the values that were drawn for it."""
    label = cell.label
    for option in (record.tuning.space or ()) if record.tuning else ():
        if option in cell.axes:
            label = label.replace(f"-{option}={cell.axes[option]}", "", 1)
    return label


def _common(matrix: Matrix) -> list[str]:
    """Return the flags that are in every cell's command."""
    spec = matrix.spec
    options = [name for name in spec.base if name not in matrix.inactive]
    return [w for name in options for w in words(name, spec.base[name], spec.base[name] in "yn")]


def _plan_table(folder: MatrixFolder, record: MatrixRecord) -> list[str]:
    known = states(folder, (cell.name for cell in record.cells), alive=False)
    times = seconds(record.cells, known, folder.probes())
    memory = predicted_memory(folder, record.cells)
    groups: dict[str, list[CellRecord]] = {}
    for cell in record.cells:
        groups.setdefault(_without_trial(cell, record), []).append(cell)
    rows = []
    for label, cells in groups.items():
        kind, steps = cells[0].kind, cells[0].steps
        peak = memory.get(kind)
        trials = len({cell.label for cell in cells})
        rows.append(
            [
                f"{label} ({trials} trials)" if trials > 1 else label,
                " ".join(dict.fromkeys(str(cell.seed) for cell in cells)),
                f"{steps:,}" if steps else "",
                rough_duration(times[kind]) if kind in times else "?",
                show_size(peak.host) if peak else "?",
                (show_size(peak.device) if peak.device else "-") if peak else "?",
            ]
        )
    return table(["cell", "seeds", "steps", "a run", "host memory", "device memory"], rows)


def _some(title: str, found: list[str]) -> list[str]:
    more = [f"  ... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return [f"{title}:", *(f"  {one}" for one in found[:_SHOWN]), *more] if found else []


def _totals(folder: MatrixFolder, record: MatrixRecord) -> list[str]:
    known = states(folder, (cell.name for cell in record.cells), alive=False)
    left = [c for c in record.cells if known[c.name].status not in ("finished", "skipped")]
    lines = [f"{len(record.cells) - len(left)} of {len(record.cells)} runs are done"]
    if (eta := remaining(folder, record, known)) is not None:
        lines[0] += f"; the others take about {rough_duration(eta)}, {record.slots} at a time"
    need, free = disk_need(record, left), machine.disk_free(folder.path)
    verdict = "" if need <= free else ": TOO LITTLE"
    lines.append(f"disk: about {show_size(need)} needed, {show_size(free)} free{verdict}")
    for kind, peak in predicted_memory(folder, record.cells).items():
        host = machine.host_memory()
        if host and peak.host > host.total:
            there = f"the host has {show_size(host.total)}"
            lines.append(f"memory: {kind} takes {show_size(peak.host)}, {there}")
    return lines


def remaining(
    folder: MatrixFolder, record: MatrixRecord, known: Mapping[str, CellState], at_once: int = 0
) -> float | None:
    """Return the seconds until all is done; None when unknown.

    `at_once`: how many cells run, where tasks of a cluster run them.
    """
    times = seconds(record.cells, known, folder.probes())
    total = 0.0
    for cell in record.cells:
        state = known[cell.name]
        if state.status in ("finished", "failed", "skipped"):
            continue
        if cell.kind not in times:
            return None
        _, share = progress(folder, cell.name, cell.steps)
        total += times[cell.kind] * (1.0 - min(1.0, share or 0.0)) * record.chance(cell)
    return total / (at_once or record.slots)


def measuring(path: Path) -> list[str]:
    """Return the status of a matrix that makes short runs before its first run; else nothing."""
    if not is_measuring(path):
        return []
    lines = read_metrics(path / "probe")
    step = lines[-1]["step"] if lines else 0
    done = counted(len(MatrixFolder(path).probes()), "row")
    return [
        f"{path}: measuring, by {holder(path)}: {done} measured, a short run is at step {step} of "
        f"{SHORT_STEPS}; the runs that are compared have not started"
    ]


def status(folder: MatrixFolder) -> list[str]:
    """Return the status of a matrix, from its files."""
    record = folder.matrix()
    runner, held = holder(folder.path), shown.held(folder)
    names = [cell.name for cell in record.cells]
    known = states(folder, names, alive=bool(runner) or held)
    counts = Counter(state.status for state in known.values())
    order = ("finished", "running", "unfinished", "failed", "left", "skipped")
    said = ", ".join(f"{counts[name]} {name}" for name in order if counts[name])
    lines = [f"matrix {record.name} in {folder.path}: {said}"]
    over = counts["finished"] + counts["skipped"] == len(known)
    idle = "all cells have finished" if over else continuation(record.name)
    lines += [f"run by {runner}"] if runner else shown.jobs_of(folder, over) or [idle]
    for cell in record.cells:
        state = known[cell.name]
        if state.status in ("running", "unfinished"):
            step, share = progress(folder, cell.name, cell.steps)
            done = f", {share:.0%}" if share is not None else ""
            where = f" ({held[cell.name].owner})" if cell.name in held else ""
            lines.append(f"  {state.status} {cell.name}: step {step:,}{done}{where}")
    for name, state in known.items():
        if state.status == "failed":
            lines.append(f"  failed {name}: {state.kind} ({state.reason}) {last_line(state.tail)}")
    eta = remaining(folder, record, known, len(held))
    if eta:
        lines.append(f"left: about {rough_duration(eta)}")
    if counts["finished"]:
        lines += ["", *summary(folder, record)]
    return lines


def summary(folder: MatrixFolder, record: MatrixRecord) -> list[str]:
    """Return the table of final results, a line for each cell over its seeds."""
    known = states(folder, (cell.name for cell in record.cells), alive=False)
    rows, notes = [], []
    for label in _labels(record):
        cells = [c for c in record.cells if c.label == label and not c.tuning]
        done = [results(folder, c.name) for c in cells if folder.finished(c.name)]
        wanted = [c for c in cells if known[c.name].status != "skipped"]
        if wanted:
            rows.append([label, f"{len(done)}/{len(wanted)}", *_means(done)])
    for name, state in known.items():
        if state.status == "failed":
            notes.append(f"failed: {name}: {state.kind} ({state.reason})")
    if any(state.shared for state in known.values()):
        notes.append("cells ran at the same time on one device: do not compare their speeds")
    head = ["cell", "seeds", "validation loss", "s.d.", "perplexity", "sparsity", "seconds"]
    return [*table(head, rows), *notes]


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700.0 else math.inf


def _means(done: Sequence[CellResults]) -> list[str]:
    losses = [one.val_loss for one in done if one.val_loss is not None]
    if not losses or len(losses) < len(done):
        return ["no number" if done else "", "", "", "", ""]
    mean = statistics.fmean(losses)
    spread = f"{statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
    sparsity = statistics.fmean(one.sparsity_reached for one in done)
    return [
        f"{mean:.4f}",
        spread,
        f"{statistics.fmean(map(_perplexity, losses)):.2f}",
        f"{sparsity:.4f}" if sparsity else "",
        f"{statistics.fmean(one.seconds for one in done):.1f}",
    ]
