"""After each step of a run: log, evaluate, save, stop or roll back when due."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

from gpt2.config.typed import TrainConfig
from gpt2.machine.signals import StopRequest
from gpt2.run_dir.console import Console
from gpt2.run_dir.folder import RunFolder
from gpt2.training.evaluation import perplexity
from gpt2.training.loop import Parts, Progress, Step
from gpt2.training.metrics import Metrics
from gpt2.training.rollback import Rollback
from gpt2.training.saver import Mark, Saver
from gpt2.training.spikes import SpikePolicy, mean_loss

#: What a line says of an evaluation: whether its loss is the lowest so far, and whether its weights
#: are saved as the best checkpoint. Not every evaluation is saved: see --save-every-best.
_MARKS = {
    (False, False): "",
    (True, False): " (best so far)",
    (True, True): " (best so far, saved)",
    (False, True): " (best checkpoint so far)",
}


class RunRecorder:
    """Decides what is due after a step; metrics, spikes and checkpoints have their own classes.

    `evaluate` returns the validation loss, or None if stopped. `during` is the context of work that
    may take longer than a step.
    """

    def __init__(
        self,
        folder: RunFolder,
        console: Console,
        parts: Parts,
        progress: Progress,
        training: TrainConfig,
        evaluate: Callable[[], float | None],
        stop: StopRequest,
        during: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self.folder = folder
        self.console = console
        self.parts = parts
        self.progress = progress
        self.metrics = Metrics(folder, console, parts, progress)
        self._spikes = SpikePolicy(parts, progress, console, training.max_rollbacks)
        self._saver = Saver(folder, console, parts, progress, training.async_checkpoint)
        self._log_interval = training.log_interval
        self._eval_interval = training.eval_interval
        self._checkpoint_interval = training.checkpoint_interval
        # With evaluations at least as rare as checkpoints, each new best is saved, too.
        self._saves_best = training.save_every_best or (
            training.eval_interval >= training.checkpoint_interval > 0
        )
        self._evaluate = evaluate
        self._stop = stop
        self._during = during
        self._agreed = False
        self.best: Mark | None = None
        self.last: Mark | None = None
        self._lowest: float | None = None

    def after_step(self, step: Step) -> bool:
        """Log, evaluate and save when due; False when the run was asked to stop.

        Raises RolledBackError for a rollback, UserError when the run diverged.
        """
        self._saver.look()
        self._agree()
        self._spikes.after_step(step)
        now, end = self.progress.step, self.progress.done()
        saving = self._due(self._checkpoint_interval)
        pausing = saving or self._due(self._eval_interval)
        if now == 1 or now % self._log_interval == 0 or end:
            self._log(step)
        elif pausing:
            float(step.loss)  # on a GPU, wait for the steps: their time is not the evaluation's
            self.progress.tick()
            self._agree()
        self.metrics.after_step()
        if end:
            return True
        if pausing:
            self._spikes.stop_if_diverged()
        better = self._due(self._eval_interval) and self.validate(saving or self._saves_best)
        if (better or saving) and not self.stopping:
            self.save(required=False)
        return not self.stopping

    @property
    def stopping(self) -> bool:
        """Return whether the run was asked to stop; with several ranks, what they agreed on."""
        return bool(self._stop) if self.parts.ranks.world_size == 1 else self._agreed

    def catch_up(self) -> None:
        """After a resume, run the evaluation that a stop interrupted."""
        if self.progress.step and self._due(self._eval_interval):
            self.conclude()

    def conclude(self) -> None:
        """Evaluate, unless this step has been evaluated."""
        if self.last is None or self.last["step"] != self.progress.step:
            self.validate()

    def validate(self, kept: bool = True) -> bool:
        """Evaluate and record; True when this is the best checkpoint. Nothing when stopped.

        Only an evaluation whose weights are `kept` on disk can be the best.
        """
        loss = self._evaluate()
        if loss is None:
            return False
        step, sparsity = self.progress.step, self.parts.pruner.sparsity()
        self.last = {"step": step, "val_loss": loss}
        self.metrics.evaluation(loss, sparsity)
        # A model that is not fully pruned yet cannot be the best of the pruned ones.
        eligible = kept and math.isfinite(loss) and sparsity.final
        better = eligible and (self.best is None or loss < self.best["val_loss"])
        if better:
            self.best = self.last
        lowest = sparsity.final and math.isfinite(loss)
        lowest = lowest and (self._lowest is None or loss < self._lowest)
        if lowest:
            self._lowest = loss
        mark = _MARKS[lowest, better]
        self.console.say(
            f"step {step}: validation loss {loss:.4f}, perplexity {perplexity(loss):.2f}{mark}"
        )
        return better

    def save(self, required: bool) -> None:
        """Write a checkpoint. A failure is an error in the log, and ends the run if `required`."""
        self._spikes.stop_if_diverged()
        self.console.phase(f"saving the checkpoint of step {self.progress.step} ...", begins=True)
        with self._during("saving a checkpoint"):
            self._saver.save(required, self.best, self.last, self._lowest)

    def close(self) -> None:
        """Wait for a checkpoint that is being written."""
        self._saver.close()

    def restore(self, rollback: Rollback | None = None) -> None:
        """Resume from the newest good checkpoint, if any; after a rollback, skip its data.

        With rollbacks on and no checkpoint yet, write one.
        """
        state = self._saver.restore()
        if state is not None:
            self.best, self.last = state["best"], state["last"]
            # Checkpoints of before have no lowest loss: then that of the best one counts.
            known = self.best["val_loss"] if self.best else None
            self._lowest = state.get("lowest", known)
            self.metrics.restart()
            self._spikes.restart()
        elif self._spikes.rolls_back:
            self.save(required=True)
        if rollback is not None:
            rollback.apply(self.progress)

    def _agree(self) -> None:
        """Make all ranks use the first rank's clock, and stop when one was asked to."""
        stop = bool(self._stop)
        self._agreed, self.progress.elapsed = self.parts.ranks.all_reduce_stop(
            stop, self.progress.elapsed
        )
        if self._agreed and not stop:
            self._stop.signal = "a signal to another rank"

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.progress.step % interval == 0

    def _log(self, step: Step) -> None:
        """Write one line of metrics. Reads from the device, which makes a GPU wait."""
        loss = mean_loss(self.parts, step)
        float(step.norm)
        self.progress.tick()  # on a GPU the time of the steps is known only now
        self._agree()
        self.metrics.step(step, loss)
        self._spikes.stop_if_diverged()
