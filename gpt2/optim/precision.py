"""Precision: autocast, loss scaling, and optimizer steps that can be skipped."""

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

    auto is bf16 on a CUDA device with native bf16, fp16 on other CUDA devices, and fp32 elsewhere.
    Whether a CPU is faster in bf16 is measured: see planning/cpu_precision.py.
    """
    if asked != "auto":
        return asked
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def emulated(name: str, device: torch.device) -> bool:
    """Return whether `name` is bf16 on a device not known to have instructions for it."""
    if name != "bf16":
        return False
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not has_bf16()


class Precision:
    """The precision of a step: autocast around the model, the backward pass, the update.

    A skipped step leaves weights and optimizer state unchanged. Optimizers with a fused kernel, or
    with a true `on_device`, check on the device; for the others one scalar per step is read back,
    for which a GPU waits.
    """

    def __init__(
        self, name: str, device: torch.device, step_guard: StepGuard | None = None
    ) -> None:
        self.name = name
        #: Why auto chose this precision, where it measured; for the record.
        self.why = ""
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        #: Decides which steps are skipped, and counts them; by default those with NaN or Inf.
        self.step_guard = StepGuard(device) if step_guard is None else step_guard
        self._one = torch.ones((), device=device)

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which the model computes."""
        return torch.autocast(
            self.device.type, dtype=DTYPES[self.name], enabled=self.name != "fp32"
        )

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, times the loss scale where the precision needs one."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the loss scale, before anything reads them."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(optimizer)

    def check_step(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Return whether to skip the step (bool, 0-d): see StepGuard.check_step."""
        scale = self.scaler.scale(self._one) if self.scaler.is_enabled() else None
        return self.step_guard.check_step(loss, norm, scale)

    def step(self, optimizer: torch.optim.Optimizer, skip: Tensor) -> None:
        """Step, unless `skip` (bool, 0-d) is true."""
        if _decides_on_device(optimizer):
            # Fused kernels read these two attributes, as under a GradScaler.
            optimizer.grad_scale = None  # type: ignore[attr-defined]
            optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        elif not bool(skip):
            optimizer.step()
        if self.scaler.is_enabled():
            self.scaler.update()

    def state(self) -> dict[str, Any]:
        """Return the checkpointed state, as JSON."""
        return {**self.scaler.state_dict(), **self.step_guard.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Restore the result of state()."""
        known = self.scaler.state_dict()  # empty without a scaler
        scaler = {name: value for name, value in state.items() if name in known}
        if scaler:  # empty where another precision wrote it
            self.scaler.load_state_dict(scaler)
        self.step_guard.load(state)


def _decides_on_device(optimizer: torch.optim.Optimizer) -> bool:
    chosen = hasattr(optimizer, "on_device") and bool(optimizer.on_device)
    return chosen or bool(optimizer.defaults.get("fused"))
