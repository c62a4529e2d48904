"""Steps that are not made: those that are not finite, and, where asked, those that spike.

Everything is decided on the device, so that a GPU does not wait; the host reads it when it logs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: So many refused steps in a row end a run.
HOPELESS_IN_A_ROW = 10
#: So many steps in all that are not finite end a run, by what --nonfinite says.
HOPELESS_IN_ALL = {"skip": 100, "abort": 1}


class SpikeWindow:
    """The losses and gradient norms of the last steps that were made, and what lies far above.

    A step spikes when its loss or its norm is above the mean of the window by more than `sigmas`
    standard deviations (of a sample: divided by n - 1), once half of the `size` steps are there.
    The idea is that of OLMo-core's SkipStepOptimizer (OLMo et al. 2025, 2 OLMo 2 Furious), whose
    window also takes in the steps that were left out; here a spike does not widen the band for the
    next one, and what is not finite never gets in.
    """

    def __init__(self, size: int, sigmas: float, device: torch.device) -> None:
        self._sigmas = sigmas
        self._values = torch.zeros((2, size), device=device)  # newest last
        self._count = torch.zeros((), dtype=torch.int64, device=device)
        self._age = torch.arange(size, 0, -1, device=device)

    def above(self, values: Tensor) -> Tensor:
        """Return whether a step of loss and norm `values` (2,) spikes: bool, 0-d."""
        held = self._age <= self._count
        mean = torch.where(held, self._values, 0.0).sum(1) / self._count
        squares = torch.where(held, self._values - mean[:, None], 0.0).square().sum(1)
        limit = mean + self._sigmas * (squares / (self._count - 1)).sqrt()
        # Of none or one the limit is NaN, and nothing is above it.
        return (values > limit).any() & (2 * self._count >= self._values.shape[1])

    def add(self, values: Tensor, made: Tensor) -> None:
        """Take in the loss and norm `values` (2,) of a step if it is `made` (bool, 0-d)."""
        moved = torch.cat([self._values[:, 1:], values[:, None]], dim=1)
        self._values = torch.where(made, moved, self._values)
        self._count = (self._count + made).clamp(max=self._values.shape[1])

    def forget(self) -> None:
        """Begin anew: what comes is not to be measured by what was."""
        self._count.zero_()

    def state(self) -> list[list[float]]:
        """Return the losses and the norms, oldest first; Python's floats hold float32 exactly."""
        count = int(self._count)
        return [row[len(row) - count :] for row in self._values.tolist()]

    def load(self, state: list[list[float]]) -> None:
        """Take back what `state` gave."""
        count = len(state[0])
        if count:
            self._values[:, -count:] = torch.tensor(state, device=self._values.device)
        self._count.fill_(count)


class Refusals:
    """Judges every step, and counts what it refuses; a refused step changes nothing.

    nonfinite: skip or abort, see HOPELESS_IN_ALL. A run without hope makes no further step, so
    that its weights do not depend on when the host gets to know of it.
    mean: the mean of a tensor over ranks, so that all of them judge alike.
    """

    def __init__(
        self,
        device: torch.device,
        nonfinite: str = "skip",
        window: SpikeWindow | None = None,
        mean: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> None:
        def count() -> Tensor:
            return torch.zeros((), dtype=torch.int64, device=device)

        self.nonfinite = nonfinite
        self.window = window
        self._mean = mean
        #: Steps so far that were not finite, and that spiked; steps refused in a row up to now.
        self.skipped, self.spiked, self.in_a_row = count(), count(), count()
        #: Of `skipped`, those that the search for a loss scale does not explain.
        self.blamed = count()
        #: Whether the last step spiked.
        self.spike = torch.zeros((), dtype=torch.bool, device=device)
        self._hopeless = torch.zeros((), dtype=torch.bool, device=device)

    def judge(self, loss: Tensor, norm: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return whether a step is refused (bool, 0-d), and count it.

        loss: of this rank, 0-d. norm: of all gradients, before clipping, 0-d. scale: what the loss
        was multiplied by to find the gradients. Where it is above 1 and the loss is finite, it was
        too large: the next step has a smaller one, and this one is not counted as `blamed`.
        """
        loss = self._mean(loss)
        bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
        blamed = bad if scale is None else bad & (~torch.isfinite(loss) | (scale <= 1.0))
        refused = bad | self._hopeless
        if self.window is not None:
            values = torch.stack([loss.float(), norm.float()])
            self.spike = self.window.above(values) & ~refused
            self.spiked += self.spike
            refused = refused | self.spike
            self.window.add(values, ~refused)
        self.skipped += bad
        self.blamed += blamed
        self.in_a_row = torch.where(refused, self.in_a_row + 1, 0)
        self._hopeless = (
            self._hopeless
            | (self.in_a_row >= HOPELESS_IN_A_ROW)
            | (self.blamed >= HOPELESS_IN_ALL[self.nonfinite])
        )
        return refused

    def verdict(self, step: int) -> str | None:
        """Say why the run has no hope after `step` steps; None when it has. Asks the device."""
        if not bool(self._hopeless):
            return None
        since = f"no weight has changed since step {step - int(self.in_a_row)}"
        way, new = "lower --learning-rate or raise --warmup-steps", " in a new --run-dir"
        blamed = int(self.blamed)
        if blamed >= HOPELESS_IN_ALL[self.nonfinite]:
            which = "a step" if blamed == 1 else f"{blamed} steps in all"
            return (
                f"diverged: {which} had no finite loss and gradient, and --nonfinite "
                f"{self.nonfinite} ends the run there; {since}; {way}{new}"
            )
        spiked = ""
        if self.window is not None:
            spiked, way = ", or spiked", f"{way}, or --spike-sigmas"
        return (
            f"diverged: the last {HOPELESS_IN_A_ROW} steps or more had no finite gradient{spiked}; "
            f"{since}; {way}{new}"
        )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, as JSON."""
        found: dict[str, Any] = {
            "skipped": int(self.skipped),
            "spiked": int(self.spiked),
            "in_a_row": int(self.in_a_row),
            "blamed": int(self.blamed),
        }
        if self.window is not None:
            found["window"] = self.window.state()
        return found

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.skipped.fill_(state["skipped"])
        self.in_a_row.fill_(state["in_a_row"])
        # Checkpoints of before steps were judged by more than their norm have only these two.
        self.spiked.fill_(state.get("spiked", 0))
        self.blamed.fill_(state.get("blamed", 0))
        if self.window is not None and "window" in state:
            self.window.load(state["window"])
