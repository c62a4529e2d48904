"""Rollback after a spike: to the newest good checkpoint, skipping the data that led to it."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2.config.errors import Exit, UserError
from gpt2.training.loop import Progress


@dataclass(frozen=True)
class Rollback:
    """The `count`-th rollback of a run, which continues with the global batch `data_step`."""

    count: int
    data_step: int

    def apply(self, progress: Progress) -> None:
        """Skip the batches from the checkpoint that was loaded into `progress` to `data_step`.

        Training is a function of the checkpoint and the data: the same data would end in the same
        spike. The checkpoint is older than the rollback and has no record of it. So a run that ends
        before its next checkpoint meets the spike again, and rolls back again.
        """
        if progress.rollbacks >= self.count:
            return  # this checkpoint is newer than the rollback
        progress.skipped_batches = self.data_step - progress.step
        progress.rollbacks = self.count


class RolledBackError(Exception):
    """The run must be rebuilt from its newest good checkpoint."""

    def __init__(self, rollback: Rollback) -> None:
        super().__init__()
        self.rollback = rollback


def next_rollback(progress: Progress, most: int) -> Rollback:
    """Return the rollback from a spike in the last step.

    Raises UserError after `most` rollbacks.
    """
    if progress.rollbacks >= most:
        raise UserError(
            f"diverged: step {progress.step} spiked, and all rollbacks are used up "
            f"({progress.rollbacks}); resume with a larger --max-rollbacks, or "
            "lower --learning-rate or raise --spike-sigmas in a new --run-dir",
            code=Exit.DIVERGED,
        )
    return Rollback(progress.rollbacks + 1, progress.data_step)
