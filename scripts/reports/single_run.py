"""The report of one run: its result, or its progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from gpt2.config.names import flag_of
from gpt2.config.text import counted, duration
from gpt2.config.typed import OptimConfig
from scripts.reports.option_values import method_of, of_pruning
from scripts.reports.rows import DENSE
from scripts.reports.runs import Run
from scripts.reports.table_cells import UNKNOWN, Grid
from scripts.reports.words import percent

#: The splits of a summary, by the prefix of their entries.
_SPLITS = (("test_", "test"), ("", "validation"), ("val_test_", "validation + test"))
_OPTIM = {field.name.upper() for field in dataclasses.fields(OptimConfig)}


def run_headline(run: Run) -> str:
    """Return the headline: the result, or how far the run is."""
    if run.summary is None:
        return _unfinished(run)
    split, loss = "validation", run.loss
    perplexity = run.measured("val_perplexity")
    if (tested := run.measured("test_loss")) is not None:
        split, loss, perplexity = "test", tested, run.measured("test_perplexity")
    shown = "" if perplexity is None else f", perplexity {perplexity:.3f}"
    steps = int(run.measured("steps") or 0)
    sparsity = run.measured("sparsity_reached")
    sparse = f" at {percent(sparsity)} sparsity" if sparsity else ""
    return f"Final {split} loss {loss:.4f}{shown}, after {counted(steps, 'step')}{sparse}."


def _unfinished(run: Run) -> str:
    at = f" after step {run.last_step:,}" if run.last_step else ""
    text = f"No results yet: {run.status}{at}."
    if run.evaluations:
        step, loss, _ = run.evaluations[-1]
        text += f" The last validation loss is {loss:.4f}, at step {step:,}."
    return text


def losses_grid(run: Run) -> Grid | None:
    """Return the final loss of each split; None for a run without results."""
    if run.summary is None:
        return None
    lines = []
    for start, name in _SPLITS:
        loss = run.measured(f"{start}loss" if start else "val_loss")
        if loss is not None:
            perplexity = run.measured(f"{start or 'val_'}perplexity")
            bits = run.measured(f"{start}bits_per_byte")
            lines.append((name, _digits(loss, 4), _digits(perplexity, 3), _digits(bits, 4)))
    titles = ("split", "loss (nats per token)", "perplexity", "bits per byte")
    return Grid(titles, tuple(lines))


def facts(run: Run) -> list[tuple[str, str]]:
    """Return the facts of a run beside its losses, each a title and a text."""
    return list(_facts(run))


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    best = run.summary.best if run.summary else None
    if best and best.step is not None and best.val_loss is not None:
        yield "best validation loss", f"{best.val_loss:.4f}, at step {best.step:,}"
    yield "model", _model(run)
    if (parameters := run.measured("parameters")) is not None:
        yield "parameters", f"{parameters:,.0f}"
    if run.summary is not None:
        yield from _of_results(run)
    record = run.record
    where = [record.device_name or record.device, record.precision]
    yield "machine", ", ".join(word for word in where if word) or UNKNOWN
    yield "data", (record.data.dataset if record.data else None) or UNKNOWN
    yield "seed", str(run.seed)
    yield "run directory", str(run.path)


def _of_results(run: Run) -> Iterator[tuple[str, str]]:
    sparsity, whole = run.measured("sparsity_reached"), run.measured("sparsity_whole")
    if sparsity:
        of_all = "" if whole is None else f", {percent(whole)} of the whole model"
        method = method_of(run.options)
        yield "sparsity", f"{percent(sparsity)} of the prunable weights{of_all} ({method})"
    for name, title in (("steps", "steps"), ("tokens", "tokens")):
        if (value := run.measured(name)) is not None:
            yield title, f"{value:,.0f}"
    if (seconds := run.measured("seconds")) is not None:
        speed = run.measured("tokens_per_second")
        at = "" if speed is None else f", {speed:,.0f} tokens/s"
        yield "training time", duration(seconds) + at
    peaks = [
        f"{size / 1e6:,.0f} MB {where}"
        for name, where in (("peak_device_bytes", "on the device"), ("peak_host_bytes", "host"))
        if (size := run.measured(name))
    ]
    if peaks:
        yield "peak memory", ", ".join(peaks)
    wrong = [
        counted(int(count), what)
        for name, what in (
            ("skipped_steps", "step skipped for NaN or Inf"),
            ("spiked_steps", "step skipped as a spike"),
            ("rollbacks", "rollback"),
        )
        if (count := run.measured(name))
    ]
    if wrong:
        yield "trouble", "; ".join(wrong)


def _model(run: Run) -> str:
    options = run.options
    names = ("N_LAYER", "N_HEAD", "N_EMBD", "BLOCK_SIZE")
    layers, heads, width, context = (options.get(name, "?") for name in names)
    shape = f"{layers} layers, {heads} heads, width {width}, context {context}"
    return f"{options.get('MODEL', '?')} ({shape})"


def settings_grid(run: Run) -> Grid:
    """Return the settings of optimizer and pruning as flags, the optimizer's own first."""
    options = run.options
    own = options.get("OPTIMIZER", "").upper().replace("-", "_") + "_"
    kept = [name for name in options if name.startswith(own)]
    kept += [name for name in options if name in _OPTIM and name not in kept]
    if method_of(options) != DENSE:
        kept += [name for name in options if of_pruning(name) and name not in kept]
    first = [name for name in ("OPTIMIZER", "LEARNING_RATE") if name in options]
    rest = [name for name in kept if name not in first]
    batch = run.record.effective_batch
    found = [(flag_of(name), options[name]) for name in [*first, *rest]]
    if batch is not None:
        found.append(("sequences per step", str(batch)))
    return Grid(("option", "value"), tuple(found))


def _digits(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:,.{digits}f}"
