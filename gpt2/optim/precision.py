"""Number formats: autocast, loss scaling, and steps that are made unless they are skipped."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from gpt2.machine.processor import has_bf16
from gpt2.optim.step_guard import StepGuard

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(asked: str, device: torch.device) -> str:
    """Return fp32, bf16 or fp16 for `asked`, which may be auto.

    auto is bf16 on a CUDA device that computes in it, fp16 on another CUDA device, and fp32 on
    everything else: whether a CPU is faster in bf16 is measured, see planning/cpu_precision.py.
    """
    if asked != "auto":
        return asked
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def emulated(name: str, device: torch.device) -> bool:
    """Whether `name` is bf16 on a device that has no instructions for it (as far as is known)."""
    if name != "bf16":
        return False
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not has_bf16()


class Precision:
    """How one step computes: autocast around the model, the backward pass and the step.

    A skipped step leaves weights and optimizer state as they were. Optimizers with a fused kernel
    heed that on the device; for the others one scalar per step is read back, which makes a GPU
    wait.
    """

    def __init__(
        self, name: str, device: torch.device, step_guard: StepGuard | None = None
    ) -> None:
        self.name = name
        #: Why it is this one, where auto decided by a measurement; for the record.
        self.why = ""
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        #: Decides and counts; by default only NaN and Inf are skipped.
        self.step_guard = StepGuard(device) if step_guard is None else step_guard
        self._one = torch.ones((), device=device)

    def autocast(self) -> AbstractContextManager[None]:
        """Context in which the model computes."""
        return torch.autocast(
            self.device.type, dtype=DTYPES[self.name], enabled=self.name != "fp32"
        )

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of `loss`, scaled when the precision needs it."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the gradients true again, before anything looks at them."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(optimizer)

    def check_step(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Return whether to skip the step (bool, 0-d): see StepGuard.check_step."""
        scale = self.scaler.scale(self._one) if self.scaler.is_enabled() else None
        return self.step_guard.check_step(loss, norm, scale)

    def step(self, optimizer: torch.optim.Optimizer, skip: Tensor) -> None:
        """Step, unless `skip` (bool, 0-d) says otherwise."""
        if _decides_on_device(optimizer):
            # The fused kernels read these two attributes, as they do under a GradScaler.
            optimizer.grad_scale = None  # type: ignore[attr-defined]
            optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        elif not bool(skip):
            optimizer.step()
        if self.scaler.is_enabled():
            self.scaler.update()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, as JSON."""
        return {**self.scaler.state_dict(), **self.step_guard.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        known = self.scaler.state_dict()  # empty without a scaler
        scaler = {name: value for name, value in state.items() if name in known}
        if scaler:  # there is none where another precision wrote it
            self.scaler.load_state_dict(scaler)
        self.step_guard.load(state)


def _decides_on_device(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused"))
