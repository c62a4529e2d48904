"""Going back after a spike: to the newest good checkpoint, past the data that led to it."""

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
        """Skip the batches between the checkpoint that `progress` was put back to and `data_step`.

        Training is a function of the checkpoint and the data, so the same data would end in the
        same spike. The checkpoint, which is older than the rollback, does not know of it: a run
        that ends before its next checkpoint meets the spike again, and goes back again.
        """
        if progress.rollbacks >= self.count:
            return  # a checkpoint of after the rollback
        progress.skipped_batches = self.data_step - progress.step
        progress.rollbacks = self.count


class RolledBackError(Exception):
    """The run is to be built anew from its newest good checkpoint."""

    def __init__(self, rollback: Rollback) -> None:
        super().__init__()
        self.rollback = rollback


def next_rollback(progress: Progress, most: int) -> Rollback:
    """Return the rollback from a spike in the last step. Raises UserError after `most` of them."""
    if progress.rollbacks >= most:
        raise UserError(
            f"diverged: step {progress.step} spiked, and all rollbacks are used up "
            f"({progress.rollbacks}); resume with a larger --max-rollbacks, or "
            "lower --learning-rate or raise --spike-sigmas in a new --run-dir",
            code=Exit.DIVERGED,
        )
    return Rollback(progress.rollbacks + 1, progress.data_step)
