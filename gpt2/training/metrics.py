"""The numbers of a run in metrics.jsonl, in the tracker, and on the progress line."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from gpt2.config.text import duration
from gpt2.machine.device import peak_memory
from gpt2.prune.pruner import Sparsity
from gpt2.run_dir.console import Console
from gpt2.run_dir.folder import RunFolder
from gpt2.training.evaluation import perplexity
from gpt2.training.loop import Parts, Progress, Step

#: Steps that the time left is estimated from, and the fewest in a session.
_RECENT, _FIRST = 20, 5


class Metrics:
    """Writes the lines of metrics.jsonl, and passes them to the tracker and the console."""

    def __init__(
        self, folder: RunFolder, console: Console, parts: Parts, progress: Progress
    ) -> None:
        self._folder, self._console = folder, console
        self._parts, self._progress = parts, progress
        self._logged = (progress.step, progress.elapsed)
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT + 1)
        self._shown = ""
        if folder.tracking is not None:
            folder.tracking.warn = console.warn

    def restart(self) -> None:
        """Measure the speed from here on, as after a resume."""
        self._logged = (self._progress.step, self._progress.elapsed)
        self._recent.clear()

    def after_step(self) -> None:
        """Record the time of a step, and move the bar of a terminal."""
        progress = self._progress
        self._recent.append((progress.step, progress.elapsed))
        if self._console.live:
            self._console.move(progress.fraction(), self._at() + self._shown + self._left())

    def step(self, step: Step, loss: float) -> None:
        """Write and show the line of a training step; `loss` is the mean over ranks."""
        progress, parts = self._progress, self._parts
        steps, seconds = progress.step - self._logged[0], progress.elapsed - self._logged[1]
        self._logged = (progress.step, progress.elapsed)
        tokens = steps * parts.batches.effective_batch * parts.batches.block_size
        sparsity = parts.pruner.sparsity()
        line: dict[str, Any] = {
            "step": progress.step,
            "tokens": self.tokens_seen(),
            "loss": loss,
            "learning_rate": step.rate,
            "grad_norm": float(step.norm),
            "sparsity": sparsity.reached,
            "sparsity_whole": sparsity.whole,
            **self.skipped(),
            "tokens_per_second": tokens / max(seconds, 1e-9),
            "mfu": parts.mfu(tokens / max(seconds, 1e-9)),
            **peak_memory(parts.precision.device),
            "elapsed": progress.elapsed,
            "time": time.time(),
        }
        self._record(line)
        self.track(line, "train/")
        self._show(line)

    def evaluation(self, loss: float, sparsity: Sparsity) -> None:
        """Write the line of an evaluation over the whole validation split."""
        line = {
            "step": self._progress.step,
            "val_loss": loss,
            **_sparsity_of(sparsity),
            "val_perplexity": perplexity(loss),
            "tokens": self.tokens_seen(),
            "elapsed": self._progress.elapsed,
            "time": time.time(),
        }
        self._record(line)
        self.track({name.removeprefix("val_"): value for name, value in line.items()}, "val/")

    def track(self, values: dict[str, Any], prefix: str) -> None:
        """Pass the numbers among `values` to the tracker, if there is one."""
        if self._folder.tracking is not None:
            self._folder.tracking.log(self._progress.step, values, prefix)

    def track_text(self, name: str, text: str) -> None:
        """Pass a text that the model wrote to the tracker, if there is one."""
        if self._folder.tracking is not None:
            self._folder.tracking.text(self._progress.step, name, text)

    def tokens_seen(self) -> int:
        """Return the tokens trained on so far, repetitions included."""
        batches = self._parts.batches
        return self._progress.step * batches.effective_batch * batches.block_size

    def skipped(self) -> dict[str, int]:
        """Return the counts of steps skipped for NaN or Inf and for spikes, and of rollbacks."""
        step_guard = self._parts.precision.step_guard
        return {
            "skipped_steps": int(step_guard.skipped),
            "spiked_steps": int(step_guard.spiked),
            "rollbacks": self._progress.rollbacks,
        }

    def _record(self, line: dict[str, Any]) -> None:
        try:
            self._folder.record(line)
        except OSError as error:
            self._console.warn(
                f"metrics.jsonl: a line is lost: {error.strerror}; training continues"
            )

    def _show(self, line: dict[str, Any]) -> None:
        self._shown = f"loss {line['loss']:.4f}  {line['tokens_per_second']:,.0f} tokens/s  "
        if line["mfu"] is not None:
            self._shown += f"MFU {line['mfu']:.1%}  "
        self._shown += f"lr {line['learning_rate']:.2e}  "
        if line["sparsity"] > 0.0:
            self._shown += f"sparsity {line['sparsity']:.1%}  "
        text = self._at() + self._shown + self._left()
        self._console.progress(self._progress.fraction(), text.rstrip())

    def _at(self) -> str:
        steps = self._progress.steps
        return f"step {self._progress.step}{'' if steps is None else f'/{steps}'}  "

    def _left(self) -> str:
        """Return the time that training still takes, by the last steps; empty before the first."""
        progress = self._progress
        if progress.fraction() >= 1.0:
            return f"{duration(0.0)} left"
        if len(self._recent) < _FIRST:
            return ""
        (first, began), (last, now) = self._recent[0], self._recent[-1]
        limits = []
        if progress.steps is not None and last > first:
            limits.append((progress.steps - progress.step) * (now - began) / (last - first))
        if progress.max_time is not None:
            limits.append(progress.max_time - progress.elapsed)
        return f"{duration(min(limits))} left" if limits else ""


def _sparsity_of(sparsity: Sparsity) -> dict[str, Any]:
    """Return a line's entries about the sparsity of a pruned run."""
    if not sparsity.layers:
        return {}
    return {
        "sparsity": sparsity.reached,
        "sparsity_whole": sparsity.whole,
        "sparsity_layers": dict(sparsity.layers),
    }
