"""What a save costs the steps around it: written while training waits, and in the background.

One model trains in turns of steps without a save, with one, and with one in the background. A turn
ends when its checkpoint is on the disk, as if the next save were due then.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gpt2.checkpoint.store import folder_of
from gpt2.config.errors import UserError
from gpt2.config.typed import Config
from gpt2.machine import device as machine
from gpt2.optim.precision import resolve_precision
from gpt2.run_dir.console import Console
from gpt2.run_dir.folder import RunFolder
from gpt2.run_dir.resume import RUNS
from gpt2.training.loop import Step, train
from gpt2.training.saver import Saver
from scripts.benchmark.contestants import Ours, synthetic_tokens
from scripts.benchmark.measure import interleaved, spread
from scripts.benchmark.tables import table

#: The sides, and whether each saves in the background; None saves nothing.
SIDES = {"no save": None, "at once": False, "in the background": True}


class _Turn:
    """Trains `ours` in turns that save once, after their first step, into a run folder of its own.

    stopped: seconds that training stood still for each save.
    """

    def __init__(self, ours: Ours, folder: Path, background: bool | None) -> None:
        self._ours = ours
        self._folder = RunFolder(folder)
        console = Console(io.StringIO())
        self._saver = Saver(self._folder, console, ours.parts, ours.clock, bool(background))
        self._saves = background is not None
        self._left = self._steps = 0
        self.stopped: list[float] = []

    def run(self, steps: int) -> None:
        """Train so many steps by the real loop."""
        self._left = self._steps = steps
        train(self._ours.parts, self._ours.clock, self)
        self._saver.wait()
        saved = self._ours.clock.step - steps + 1
        if self._saves and not folder_of(self._folder.checkpoints, saved).exists():
            raise UserError("--checkpoint: a save failed, so its time says nothing; see above")

    def after_step(self, step: Step) -> bool:  # noqa: ARG002
        """Save after the first step of a turn; False after the last."""
        if self._saves and self._left == self._steps:
            start = time.perf_counter()
            self._saver.save(required=False, best=None, last=None)
            self.stopped.append(time.perf_counter() - start)
        self._left -= 1
        return self._left > 0

    def written(self) -> int:
        """Return the bytes of the newest checkpoint; 0 when there is none."""
        newest = max(self._folder.checkpoints.glob("step-*"), default=None)
        return sum(path.stat().st_size for path in newest.iterdir()) if newest else 0

    def close(self) -> None:
        """End the thread, let go of the folder."""
        self._saver.close()
        self._folder.close()


def main(arguments: argparse.Namespace, configs: Sequence[Config], vocabulary: int) -> None:
    """Measure each configuration; print a table. Raises UserError."""
    device = machine.resolve_device(configs[0].machine.device)
    machine.keep_freed_memory(device)  # as train.py does
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(device),
        "steps": arguments.checkpoint,
        "repeats": arguments.repeats,
        "results": [measure(config, vocabulary, arguments, device) for config in configs],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(_as_table(report))


def measure(
    config: Config, vocabulary: int, arguments: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Return ms/step of every side, and the sides that save over the one that does not."""
    precision = resolve_precision(config.optim.precision, device)
    machine.prepare(config.machine, precision, config.train.seed)
    ours = Ours(config, synthetic_tokens(config, vocabulary), device, precision)
    RUNS.mkdir(exist_ok=True)
    with ExitStack() as stack:
        stack.callback(ours.close)
        # Where the runs lie: a folder of /tmp may be no disk at all.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=RUNS, prefix=".bench-")))
        turns = {name: _Turn(ours, folder / name, way) for name, way in SIDES.items()}
        for turn in turns.values():
            stack.callback(turn.close)
        for turn in turns.values():
            turn.run(arguments.warmup)  # the first copy takes new memory, the next do not
            turn.stopped.clear()
        runs = {name: turn.run for name, turn in turns.items()}
        times = interleaved(runs, arguments.checkpoint, arguments.repeats, device)
        size = turns["at once"].written()
    without = times["no save"]
    return {
        "model": config.model.model,
        "parameters": ours.model.parameter_count(),
        "batch_size": config.train.batch_size,
        "block_size": config.model.block_size,
        "checkpoint_bytes": size,
        "ms_per_step": times,
        "without": spread(without),
        "sides": {
            name: {
                "ratio": spread([a / b for a, b in zip(times[name], without, strict=True)]),
                "stopped_seconds": statistics.median(turns[name].stopped),
            }
            for name, way in SIDES.items()
            if way is not None
        },
    }


def _as_table(report: dict[str, Any]) -> str:
    rows = []
    for result in report["results"]:
        row = [
            f"{result['model']}, {result['parameters'] / 1e6:.1f} M, "
            f"{result['batch_size']} x {result['block_size']}",
            f"{result['checkpoint_bytes'] / 1e6:,.0f}",
            f"{result['without']['median']:,.0f} +- {result['without']['iqr']:,.0f}",
        ]
        for side in result["sides"].values():
            ratio = side["ratio"]
            row += [f"{ratio['median']:.3f} +- {ratio['iqr']:.3f}"]
            row += [f"{1000 * side['stopped_seconds']:,.0f}"]
        rows.append(row)
    titles = ["model", "checkpoint, MB", "ms/step without"]
    titles += ["at once, ratio", "stands still, ms", "in the background, ratio"]
    titles += ["stands still, ms"]
    versions = report["machine"]["versions"]
    return (
        f"Mean step over {report['steps']} steps with one save, over that without; "
        f"{report['repeats']} turns each, torch {versions['torch']}, "
        f"{report['machine']['device_name']}, {report['machine']['threads']} threads.\n\n"
        + table(titles, rows)
    )
