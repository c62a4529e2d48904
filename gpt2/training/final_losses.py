"""The final losses of a run: over the test split, and over validation and test together.

Nothing is chosen by them: they are measured once, after the last step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gpt2.config import faults
from gpt2.data.tokens import TokenFile

#: Validation and test read as one text, by open_split's name.
VAL_TEST = "val+test"
#: Returns the mean loss over a split from one of its inputs on; None when stopped.
LossOver = Callable[[TokenFile, int], float | None]


@dataclass(frozen=True)
class FinalLosses:
    """Losses in nats per token; None where the data have no test split."""

    test: float | None = None
    val_test: float | None = None


def final_losses(
    val_loss: float, data: Mapping[str, TokenFile], block_size: int, loss_over: LossOver
) -> FinalLosses | None:
    """Return the losses over the test split and over val+test; None when stopped.

    `val_loss` is the loss over the whole validation split. Up to the sequence that crosses the
    border, val+test has the same sequences as validation: these are not computed again.
    """
    if "test" not in data:
        return FinalLosses()
    val, both = data["val"], data[VAL_TEST]
    test_loss = loss_over(data["test"], 0)
    if test_loss is None:
        return None
    faults.failpoint("evaluation.test")
    targets = len(val.ids) - 1
    first = targets // block_size * block_size
    nats = val_loss * targets
    if first < targets:  # the last sequence of validation, which ends early
        cut = loss_over(val, first)
        if cut is None:
            return None
        nats -= cut * (targets - first)
    rest = loss_over(both, first)
    if rest is None:
        return None
    count = len(both.ids) - 1
    return FinalLosses(test_loss, (nats + rest * (count - first)) / count)
