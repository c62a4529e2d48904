"""What a run writes down: log lines, evaluations, when it saves, and whether it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import TrainConfig
from gpt2.machine.signals import StopRequest
from gpt2.prune.pruner import Sparsity
from gpt2.run_dir.console import Console, duration
from gpt2.run_dir.folder import RunFolder
from gpt2.training.evaluation import perplexity
from gpt2.training.loop import Clock, Parts, Step
from gpt2.training.rollback import Rollback, RolledBackError, next_rollback
from gpt2.training.saver import Mark, Saver


class RunRecorder:
    """Records a run in its folder.

    `evaluate` returns the validation loss, or None if stopped. `during` is the context of what may
    take longer than a step.
    """

    def __init__(
        self,
        folder: RunFolder,
        console: Console,
        parts: Parts,
        clock: Clock,
        training: TrainConfig,
        evaluate: Callable[[], float | None],
        stop: StopRequest,
        during: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self.folder = folder
        self.console = console
        self.parts = parts
        self.clock = clock
        self._log_interval = training.log_interval
        self._eval_interval = training.eval_interval
        self._checkpoint_interval = training.checkpoint_interval
        self._max_rollbacks = training.max_rollbacks
        self._evaluate = evaluate
        self._stop = stop
        self._during = during
        self._agreed = False
        self._saver = Saver(folder, console, parts, clock, training.async_checkpoint)
        self.best: Mark | None = None
        self.last: Mark | None = None
        self._block = parts.batches.block_size
        self._logged = (clock.step, clock.elapsed)
        self._pruned = parts.pruner.sparsity().reached
        if folder.tracking is not None:
            folder.tracking.warn = console.warn

    # -- the loop's side ------------------------------------------------------------------------

    def after_step(self, step: Step) -> bool:
        """Log, evaluate and save when due; False when the run was asked to stop.

        Raises RolledBackError when the run shall go back, UserError when it has no hope.
        """
        self._saver.look()
        self._agree()
        self._watch(step)
        now, end = self.clock.step, self.clock.done()
        saving = self._due(self._checkpoint_interval)
        pausing = saving or self._due(self._eval_interval)
        if now == 1 or now % self._log_interval == 0 or end:
            self._log(step)
        elif pausing:
            float(step.loss)  # on a GPU, wait for the steps: their time is not the evaluation's
            self.clock.tick()
            self._agree()
        if end:
            return True
        if pausing:
            self._stop_if_diverged()
        better = self._due(self._eval_interval) and self.validate()
        if (better or saving) and not self.stopping:
            self.save(required=False)
        return not self.stopping

    @property
    def stopping(self) -> bool:
        """Whether the run was asked to stop; over several ranks, what they agreed on last."""
        return bool(self._stop) if self.parts.ranks.world_size == 1 else self._agreed

    def catch_up(self) -> None:
        """Make the evaluation that a stop cut short, after a resume."""
        if self.clock.step and self._due(self._eval_interval):
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

    def refused(self) -> dict[str, int]:
        """Count the steps that were not finite, those that spiked, and the rollbacks."""
        step_guard = self.parts.precision.step_guard
        return {
            "skipped_steps": int(step_guard.skipped),
            "spiked_steps": int(step_guard.spiked),
            "rollbacks": self.clock.rollbacks,
        }

    # -- checkpoints ----------------------------------------------------------------------------

    def save(self, required: bool) -> None:
        """Write a checkpoint. A failure is an error in the log, and ends the run if `required`."""
        self._stop_if_diverged()
        with self._during("saving a checkpoint"):
            self._saver.save(required, self.best, self.last)

    def close(self) -> None:
        """Wait for a checkpoint that is being written."""
        self._saver.close()

    def restore(self, rollback: Rollback | None = None) -> None:
        """Go on from the newest good checkpoint, if there is one; past a spike after a rollback.

        Where rollbacks are asked for and there is none, one is made.
        """
        state = self._saver.restore()
        if state is not None:
            self.best, self.last = state["best"], state["last"]
            self._logged = (self.clock.step, self.clock.elapsed)
            self._pruned = self.parts.pruner.sparsity().reached
        elif self._max_rollbacks is not None:
            self.save(required=True)
        if rollback is not None:
            rollback.apply(self.clock)

    # -- details ----------------------------------------------------------------------------------

    def _agree(self) -> None:
        """Let all ranks go by the first one's clock, and stop when any was told to."""
        stop = bool(self._stop)
        self._agreed, self.clock.elapsed = self.parts.ranks.all_reduce_stop(
            stop, self.clock.elapsed
        )
        if self._agreed and not stop:
            self._stop.signal = "a signal to another rank"

    def _watch(self, step: Step) -> None:
        """Go back if the step spiked; measure spikes anew where pruning made the loss jump."""
        step_guard = self.parts.precision.step_guard
        if self._max_rollbacks is not None and bool(step_guard.spike):
            self._stop_if_diverged()
            rollback = next_rollback(self.clock, self._max_rollbacks)
            self.console.warn(
                f"step {self.clock.step} spiked (loss {self._loss(step):.4g}, gradient norm "
                f"{float(step.norm):.4g}): going back to the newest checkpoint, and on with the "
                f"data after it (rollback {rollback.count} of {self._max_rollbacks})"
            )
            raise RolledBackError(rollback)
        if step_guard.window is not None:
            pruned = self.parts.pruner.sparsity().reached
            if pruned != self._pruned:
                step_guard.window.forget()
            self._pruned = pruned

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.clock.step % interval == 0

    def _log(self, step: Step) -> None:
        """Write one line of metrics. Reads from the device, which makes a GPU wait."""
        loss, norm = self._loss(step), float(step.norm)
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
            **self.refused(),
            "tokens_per_second": speed,
            "elapsed": self.clock.elapsed,
            "time": time.time(),
        }
        self._record(line)
        self._show(line)
        self._stop_if_diverged()

    def _loss(self, step: Step) -> float:
        (loss,) = self.parts.ranks.all_reduce_sum([float(step.loss) / self.parts.ranks.world_size])
        return loss

    def _stop_if_diverged(self) -> None:
        if (verdict := self.parts.precision.step_guard.verdict(self.clock.step)) is not None:
            raise UserError(verdict, code=Exit.DIVERGED)

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
