"""The micro-batch of evaluations, reduced where it does not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.config.text import first_line
from gpt2.machine.out_of_memory import ERRORS, is_exhaustion, release, smaller_batch
from gpt2.machine.ranks import DistributedContext
from gpt2.run_dir.console import Console

#: Sums numbers over ranks.
Total = Callable[[Sequence[float]], Sequence[float]]


class _ElsewhereError(Exception):
    """Another rank ran out of memory."""


class EvaluationBatch:
    """The micro-batch of evaluations; where it does not fit, all ranks reduce it alike.

    `on_reduction` is called with every reduction, in the form of run.json.
    """

    def __init__(
        self,
        size: int,
        ranks: DistributedContext,
        console: Console,
        on_reduction: Callable[[dict[str, Any]], None],
    ) -> None:
        self.size = size
        self._ranks, self._console, self._on_reduction = ranks, console, on_reduction

    def evaluate(self, compute: Callable[[int, Total], float | None]) -> float | None:
        """Return the result of `compute`, called with a micro-batch and a sum over ranks.

        Raises UserError when even a micro-batch of 1 is too large.
        """
        while True:
            try:
                return compute(self.size, self._total)
            except _ElsewhereError:
                reason = "on another rank"
            except ERRORS as error:
                if not is_exhaustion(error) or self._ranks.sharded:
                    raise
                reason = first_line(error)
                # The others wait for this rank's sums; this tells them that it has none.
                self._ranks.all_reduce_sum([0.0, 0.0, 1.0])
            release()
            self._reduce(reason)

    def _total(self, values: Sequence[float]) -> list[float]:
        *sums, failed = self._ranks.all_reduce_sum([*values, 0.0])
        if failed:
            raise _ElsewhereError
        return sums

    def _reduce(self, reason: str) -> None:
        before, after = self.size, smaller_batch(self.size)
        if after is None:
            raise UserError(
                "out of memory in an evaluation of one sequence at a time: "
                "a smaller --block-size or --model needs less",
                code=Exit.MEMORY,
            )
        self.size = after
        self._console.warn(
            f"out of memory evaluating {before} sequences at a time: continuing with {after}"
        )
        self._on_reduction({"batch": "evaluation", "from": before, "to": after, "error": reason})


def evaluation_batch(size: int, batch_size_reductions: Sequence[dict[str, Any]]) -> int:
    """Return `size`, or the smaller micro-batch to which evaluations were reduced.

    `batch_size_reductions` is the entry `lowered` of run.json.
    """
    reductions = [c for c in batch_size_reductions if c["batch"] == "evaluation"]
    return min([size, *(int(change["to"]) for change in reductions)])
