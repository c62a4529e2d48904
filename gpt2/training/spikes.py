"""Policy for steps that spike or diverge: skip them, roll back, or end the run."""

from __future__ import annotations

from gpt2.config.errors import Exit, UserError
from gpt2.run_dir.console import Console
from gpt2.training.loop import Parts, Progress, Step
from gpt2.training.rollback import RolledBackError, next_rollback


class SpikePolicy:
    """Acts on every step after the step guard; with `max_rollbacks` None it never rolls back."""

    def __init__(
        self, parts: Parts, progress: Progress, console: Console, max_rollbacks: int | None
    ) -> None:
        self._guard = parts.precision.step_guard
        self._parts, self._progress, self._console = parts, progress, console
        self._max_rollbacks = max_rollbacks
        self._pruned = parts.pruner.sparsity().reached

    @property
    def rolls_back(self) -> bool:
        """Return whether a spike sends the run back to its newest checkpoint."""
        return self._max_rollbacks is not None

    def restart(self) -> None:
        """Store the current sparsity, as after a resume: a change of it resets the spike window."""
        self._pruned = self._parts.pruner.sparsity().reached

    def after_step(self, step: Step) -> None:
        """Roll back if the step spiked; empty the spike window when pruning changed the sparsity.

        Raises RolledBackError, and UserError where the run diverged.
        """
        if self._max_rollbacks is not None and bool(self._guard.spike):
            self.stop_if_diverged()
            rollback = next_rollback(self._progress, self._max_rollbacks)
            loss = mean_loss(self._parts, step)
            self._console.warn(
                f"step {self._progress.step} spiked (loss {loss:.4g}, gradient norm "
                f"{float(step.norm):.4g}): going back to the newest checkpoint, and on with the "
                f"data after it (rollback {rollback.count} of {self._max_rollbacks})"
            )
            raise RolledBackError(rollback)
        if self._guard.window is not None:
            pruned = self._parts.pruner.sparsity().reached
            if pruned != self._pruned:
                self._guard.window.forget()
            self._pruned = pruned

    def stop_if_diverged(self) -> None:
        """Raise UserError (DIVERGED) where too many steps were skipped. Waits for the device."""
        if (verdict := self._guard.verdict(self._progress.step)) is not None:
            raise UserError(verdict, code=Exit.DIVERGED)


def mean_loss(parts: Parts, step: Step) -> float:
    """Return the loss of a step, the mean over ranks; all ranks must call this."""
    (loss,) = parts.ranks.all_reduce_sum([float(step.loss) / parts.ranks.world_size])
    return loss
