"""Optimizer steps that are skipped: NaN or Inf in loss or gradients and, where asked, spikes.

Everything is decided on the device, so that a GPU does not wait; the host reads it when it logs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: Skipped steps in a row that end a run.
MAX_CONSECUTIVE_SKIPS = 10
#: Steps with NaN or Inf, over the whole run, that end it, by --nonfinite.
MAX_SKIPS = {"skip": 100, "abort": 1}


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


class StepGuard:
    """Decides for each step whether it is skipped, and counts; a skipped step changes nothing.

    nonfinite: skip or abort, see MAX_SKIPS. A run that diverged makes no further step, so that its
    weights do not depend on when the host notices.
    mean: the mean of a tensor over ranks, so that all of them decide alike.
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
        #: Steps so far that were not finite, and that spiked; steps skipped in a row up to now.
        self.skipped, self.spiked, self.in_a_row = count(), count(), count()
        #: Of `skipped`, those that the search for a loss scale does not explain.
        self.not_loss_scale_search = count()
        #: Whether the last step spiked.
        self.spike = torch.zeros((), dtype=torch.bool, device=device)
        self._diverged = torch.zeros((), dtype=torch.bool, device=device)

    def check_step(self, loss: Tensor, norm: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return whether to skip a step (bool, 0-d), and count it.

        loss: of this rank, 0-d. norm: of all gradients, before clipping, 0-d. scale: what the loss
        was multiplied by to find the gradients. Where it is above 1 and the loss is finite, it was
        too large: the next step has a smaller one, and this one is the search for a loss scale.
        """
        loss = self._mean(loss)
        bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
        unexplained = bad if scale is None else bad & (~torch.isfinite(loss) | (scale <= 1.0))
        skip = bad | self._diverged
        if self.window is not None:
            values = torch.stack([loss.float(), norm.float()])
            self.spike = self.window.above(values) & ~skip
            self.spiked += self.spike
            skip = skip | self.spike
            self.window.add(values, ~skip)
        self.skipped += bad
        self.not_loss_scale_search += unexplained
        self.in_a_row = torch.where(skip, self.in_a_row + 1, 0)
        self._diverged = (
            self._diverged
            | (self.in_a_row >= MAX_CONSECUTIVE_SKIPS)
            | (self.not_loss_scale_search >= MAX_SKIPS[self.nonfinite])
        )
        return skip

    def verdict(self, step: int) -> str | None:
        """Say why the run diverged by `step` steps; None when it did not. Waits for the device."""
        if not bool(self._diverged):
            return None
        since = f"no weight has changed since step {step - int(self.in_a_row)}"
        way, new = "lower --learning-rate or raise --warmup-steps", " in a new --run-dir"
        unexplained = int(self.not_loss_scale_search)
        if unexplained >= MAX_SKIPS[self.nonfinite]:
            which = "a step" if unexplained == 1 else f"{unexplained} steps in all"
            return (
                f"diverged: {which} had no finite loss and gradient, and --nonfinite "
                f"{self.nonfinite} ends the run there; {since}; {way}{new}"
            )
        spiked = ""
        if self.window is not None:
            spiked, way = ", or spiked", f"{way}, or --spike-sigmas"
        return (
            f"diverged: the last {MAX_CONSECUTIVE_SKIPS} steps or more had no finite gradient"
            f"{spiked}; {since}; {way}{new}"
        )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, as JSON."""
        found: dict[str, Any] = {
            "skipped": int(self.skipped),
            "spiked": int(self.spiked),
            "in_a_row": int(self.in_a_row),
            "blamed": int(self.not_loss_scale_search),
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
        self.not_loss_scale_search.fill_(state.get("blamed", 0))
        if self.window is not None and "window" in state:
            self.window.load(state["window"])
