"""Going back after a spike: to the newest good checkpoint, past the data that led to it."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2.config.errors import Exit, UserError
from gpt2.training.loop import Clock


@dataclass(frozen=True)
class Rollback:
    """The `count`-th rollback of a run, which goes on with the step's worth of data `position`."""

    count: int
    position: int

    def apply(self, clock: Clock) -> None:
        """Leave out the data between the checkpoint that `clock` was put back to and `position`.

        Training is a function of the checkpoint and the data, so the same data would end in the
        same spike. The checkpoint, which is older than the rollback, does not know of it: a run
        that ends before its next checkpoint meets the spike again, and goes back again.
        """
        if clock.rollbacks >= self.count:
            return  # a checkpoint of after the rollback
        clock.left_out = self.position - clock.step
        clock.rollbacks = self.count


class RolledBackError(Exception):
    """The run is to be built anew from its newest good checkpoint."""

    def __init__(self, rollback: Rollback) -> None:
        super().__init__()
        self.rollback = rollback


def next_rollback(clock: Clock, most: int) -> Rollback:
    """Return the rollback from a spike in the last step. Raises UserError after `most` of them."""
    if clock.rollbacks >= most:
        raise UserError(
            f"diverged: step {clock.step} spiked, and the rollbacks allowed are used up "
            f"({clock.rollbacks}); the same command with a larger --max-rollbacks goes on, or "
            "lower --learning-rate or raise --spike-sigmas in a new --run-dir",
            code=Exit.DIVERGED,
        )
    return Rollback(clock.rollbacks + 1, clock.position)
