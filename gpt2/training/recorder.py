"""What a run writes down: log lines, evaluations, when it saves, and whether it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.prune.pruner import Sparsity
from gpt2.training.evaluation import perplexity
from gpt2.training.loop import Clock, Parts, Step
from gpt2.training.progress import Console, duration
from gpt2.training.run import RunFolder
from gpt2.training.saving import Mark, Saver
from gpt2.training.signals import StopRequest

#: So many steps in a row without a finite gradient end the run.
HOPELESS = 10


@dataclass(frozen=True)
class Intervals:
    """Steps between log lines, evaluations and checkpoints; 0 is only at the end."""

    log: int
    evaluation: int
    checkpoint: int


class RunRecorder:
    """Records a run in its folder. `evaluate` returns the validation loss, or None if stopped.

    In the `background`, checkpoints are written while training goes on.
    """

    def __init__(
        self,
        folder: RunFolder,
        console: Console,
        parts: Parts,
        clock: Clock,
        intervals: Intervals,
        evaluate: Callable[[], float | None],
        stop: StopRequest,
        background: bool = False,
    ) -> None:
        self.folder = folder
        self.console = console
        self.parts = parts
        self.clock = clock
        self.intervals = intervals
        self._evaluate = evaluate
        self._stop = stop
        self._agreed = False
        self._saver = Saver(folder, console, parts, clock, background)
        self.best: Mark | None = None
        self.last: Mark | None = None
        self._block = parts.batches.block_size
        self._logged = (clock.step, clock.elapsed)
        if folder.tracking is not None:
            folder.tracking.warn = console.warn

    # -- the loop's side ------------------------------------------------------------------------

    def after_step(self, step: Step) -> bool:
        """Log, evaluate and save when due; False when the run was asked to stop."""
        self._saver.look()
        self._agree()
        now, end = self.clock.step, self.clock.done()
        pausing = self._due(self.intervals.evaluation) or self._due(self.intervals.checkpoint)
        if now == 1 or now % self.intervals.log == 0 or end:
            self._log(step)
        elif pausing:
            float(step.loss)  # on a GPU, wait for the steps: their time is not the evaluation's
            self.clock.tick()
            self._agree()
        if end:
            return True
        if pausing:
            self._refuse_hopeless()
        better = self._due(self.intervals.evaluation) and self.validate()
        if (better or self._due(self.intervals.checkpoint)) and not self.stopping:
            self.save(required=False)
        return not self.stopping

    @property
    def stopping(self) -> bool:
        """Whether the run was asked to stop; over several ranks, what they agreed on last."""
        return bool(self._stop) if self.parts.ranks.count == 1 else self._agreed

    def catch_up(self) -> None:
        """Make the evaluation that a stop cut short, after a resume."""
        if self.clock.step and self._due(self.intervals.evaluation):
            self.conclude()

    def conclude(self) -> None:
        """Evaluate, unless this step has been evaluated."""
        if self.last is None or self.last["step"] != self.clock.step:
            self.validate()

    def validate(self) -> bool:
        """Evaluate and record; True when this is the best so far. Nothing when stopped."""
        loss = self._evaluate()
        if loss is None:
            return False
        step, sparsity = self.clock.step, self.parts.pruner.sparsity()
        self.last = {"step": step, "val_loss": loss}
        self._record(
            {
                **self.last,
                **_sparsity_of(sparsity),
                "val_perplexity": perplexity(loss),
                "tokens": self.tokens_seen(),
                "elapsed": self.clock.elapsed,
                "time": time.time(),
            }
        )
        # A model that is yet to be pruned is not the best of the pruned ones.
        eligible = math.isfinite(loss) and sparsity.final
        better = eligible and (self.best is None or loss < self.best["val_loss"])
        if better:
            self.best = self.last
        mark = " (best so far)" if better else ""
        self.console.say(
            f"step {step}: validation loss {loss:.4f}, perplexity {perplexity(loss):.2f}{mark}"
        )
        return better

    def track(self, values: dict[str, Any], prefix: str = "") -> None:
        """Pass the numbers among `values` on to the tracker, if there is one."""
        if self.folder.tracking is not None:
            self.folder.tracking.log(self.clock.step, values, prefix)

    def tokens_seen(self) -> int:
        """Tokens trained on so far, counted as often as they were seen."""
        return self.clock.step * self.parts.batches.effective_batch * self._block

    # -- checkpoints ----------------------------------------------------------------------------

    def save(self, required: bool) -> None:
        """Write a checkpoint. A failure is an error in the log, and ends the run if `required`."""
        self._saver.save(required, self.best, self.last)

    def close(self) -> None:
        """Wait for a checkpoint that is being written."""
        self._saver.close()

    def restore(self) -> bool:
        """Go on from the newest good checkpoint; False when there is none."""
        state = self._saver.restore()
        if state is None:
            return False
        self.best, self.last = state["best"], state["last"]
        self._logged = (self.clock.step, self.clock.elapsed)
        return True

    # -- details ----------------------------------------------------------------------------------

    def _agree(self) -> None:
        """Let all ranks go by the first one's clock, and stop when any was told to."""
        stop = bool(self._stop)
        self._agreed, self.clock.elapsed = self.parts.ranks.agree(stop, self.clock.elapsed)
        if self._agreed and not stop:
            self._stop.signal = "a signal to another rank"

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.clock.step % interval == 0

    def _log(self, step: Step) -> None:
        """Write one line of metrics. Reads from the device, which makes a GPU wait."""
        (loss,) = self.parts.ranks.total([float(step.loss) / self.parts.ranks.count])
        norm = float(step.norm)
        self.clock.tick()  # on a GPU the time of the steps is known only now
        self._agree()
        steps, seconds = (
            self.clock.step - self._logged[0],
            self.clock.elapsed - self._logged[1],
        )
        self._logged = (self.clock.step, self.clock.elapsed)
        speed = steps * self.parts.batches.effective_batch * self._block / max(seconds, 1e-9)
        sparsity = self.parts.pruner.sparsity()
        line: dict[str, Any] = {
            "step": self.clock.step,
            "tokens": self.tokens_seen(),
            "loss": loss,
            "learning_rate": step.rate,
            "grad_norm": norm,
            "sparsity": sparsity.reached,
            "sparsity_whole": sparsity.whole,
            "skipped_steps": int(self.parts.precision.skipped),
            "tokens_per_second": speed,
            "elapsed": self.clock.elapsed,
            "time": time.time(),
        }
        self._record(line)
        self._show(line)
        self._refuse_hopeless()

    def _refuse_hopeless(self) -> None:
        if int(self.parts.precision.in_a_row) >= HOPELESS:
            raise UserError(
                f"diverged: the last {HOPELESS} steps or more had no finite gradient; lower"
                " --learning-rate or raise --warmup-steps",
                code=Exit.DIVERGED,
            )

    def _record(self, line: dict[str, Any]) -> None:
        self.track(line)
        try:
            self.folder.record(line)
        except OSError as error:
            self.console.warn(f"metrics.jsonl: a line is lost: {error.strerror}; training goes on")

    def _show(self, line: dict[str, Any]) -> None:
        fraction = self.clock.progress()
        left = self.clock.elapsed * (1.0 / fraction - 1.0) if fraction > 0.0 else 0.0
        of = f"/{self.clock.steps}" if self.clock.steps is not None else ""
        text = (
            f"step {line['step']}{of}  loss {line['loss']:.4f}  "
            f"{line['tokens_per_second']:,.0f} tokens/s  lr {line['learning_rate']:.2e}  "
        )
        if line["sparsity"] > 0.0:
            text += f"sparsity {line['sparsity']:.1%}  "
        self.console.progress(fraction, text + f"{duration(left)} left")


def _sparsity_of(sparsity: Sparsity) -> dict[str, Any]:
    """Return what a line says of the sparsity of a pruned run."""
    if not sparsity.layers:
        return {}
    return {
        "sparsity": sparsity.reached,
        "sparsity_whole": sparsity.whole,
        "sparsity_layers": dict(sparsity.layers),
    }
