"""Skip optimizer steps with NaN or Inf in the loss or gradients and, where asked, spikes.

Every decision is made on the device, so that a GPU does not wait. The host reads it when it logs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: This many skipped steps in a row end a run.
MAX_CONSECUTIVE_SKIPS = 10
#: This many steps with NaN or Inf end a run, by --nonfinite.
MAX_SKIPS = {"skip": 100, "abort": 1}


class SpikeWindow:
    """The loss and gradient norm of the last applied steps: the window that defines a spike.

    A step spikes when its loss or norm is above a threshold: the window's mean plus `sigmas` sample
    standard deviations (n - 1). The window of `size` steps must be half full. The idea is from
    OLMo-core's SkipStepOptimizer (OLMo et al. 2025, 2 OLMo 2 Furious). There, skipped steps enter
    the window, too. Here they do not, so that a spike does not raise the threshold for the next
    one, and NaN and Inf never enter.
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
        # With fewer than two steps the limit is NaN, and nothing is above it.
        return (values > limit).any() & (2 * self._count >= self._values.shape[1])

    def add(self, values: Tensor, made: Tensor) -> None:
        """Add the loss and norm `values` (2,) of a step if it was `made` (bool, 0-d)."""
        moved = torch.cat([self._values[:, 1:], values[:, None]], dim=1)
        self._values = torch.where(made, moved, self._values)
        self._count = (self._count + made).clamp(max=self._values.shape[1])

    def forget(self) -> None:
        """Empty the window: coming steps are not comparable with earlier ones."""
        self._count.zero_()

    def state(self) -> list[list[float]]:
        """Return the losses and the norms, oldest first; Python floats hold float32 exactly."""
        count = int(self._count)
        return [row[len(row) - count :] for row in self._values.tolist()]

    def load(self, state: list[list[float]]) -> None:
        """Restore the result of state()."""
        count = len(state[0])
        if count:
            self._values[:, -count:] = torch.tensor(state, device=self._values.device)
        self._count.fill_(count)


class StepGuard:
    """Decides which steps are skipped, and counts them; a skipped step changes nothing.

    A run that diverged applies no further step, so that its weights do not depend on when the host
    notices.

    nonfinite: skip or abort, see MAX_SKIPS.
    mean: the mean of a tensor over ranks, so that all ranks decide alike.
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
        #: Non-finite steps so far; spikes so far; steps skipped in a row up to now.
        self.skipped, self.spiked, self.in_a_row = count(), count(), count()
        #: Those of `skipped` that the adjustment of the loss scale does not explain.
        self.not_loss_scale_search = count()
        #: Whether the last step spiked.
        self.spike = torch.zeros((), dtype=torch.bool, device=device)
        self._diverged = torch.zeros((), dtype=torch.bool, device=device)

    def check_step(self, loss: Tensor, norm: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return whether to skip a step (bool, 0-d), and count it.

        loss: this rank's loss, 0-d.
        norm: of all gradients before clipping, 0-d.
        scale: the loss scale. Where it is above 1 and the loss is finite, it was too large: the
            step counts as adjustment of the loss scale, and the next one has a smaller scale.
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
        """Return why the run had diverged by `step`, or None. Waits for the device."""
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
        """Return the checkpointed state, as JSON."""
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
        """Restore the result of state()."""
        self.skipped.fill_(state["skipped"])
        self.in_a_row.fill_(state["in_a_row"])
        # Old checkpoints, written before spikes were detected, have only the two counts above.
        self.spiked.fill_(state.get("spiked", 0))
        self.not_loss_scale_search.fill_(state.get("blamed", 0))
        if self.window is not None and "window" in state:
            self.window.load(state["window"])
