"""Number formats: autocast, loss scaling, and steps that refuse non-finite gradients."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(asked: str, device: torch.device) -> str:
    """Return fp32, bf16 or fp16 for `asked`, which may be auto.

    auto is bf16 on a CUDA device that computes in it, fp16 on another CUDA device, and fp32 on
    everything else: a CPU without native bf16 is a hundred times slower in it.
    """
    if asked != "auto":
        return asked
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def emulated(name: str, device: torch.device) -> bool:
    """Whether `name` is bf16 on a CPU that has no instructions for it (as far as Linux tells)."""
    if name != "bf16" or device.type != "cpu":
        return False
    information = Path("/proc/cpuinfo")
    words = information.read_text().split() if information.is_file() else []
    return not {"avx512_bf16", "amx_bf16", "bf16"} & set(words)


class Precision:
    """How one step computes: autocast around the model, the backward pass and the step.

    A step whose gradients are not all finite leaves weights and optimizer state as they were.
    Optimizers with a fused kernel decide that on the device; for the others one scalar per step is
    read back, which makes a GPU wait.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        #: Steps refused in all, and in a row up to now; on the device, read when logging.
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.in_a_row = torch.zeros((), dtype=torch.int64, device=device)

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

    def step(self, optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
        """Step, unless `norm`, the norm of all gradients (0-d), is not finite."""
        refused = ~torch.isfinite(norm)
        if _decides_on_device(optimizer):
            # The fused kernels read these two attributes, as they do under a GradScaler.
            optimizer.grad_scale = None  # type: ignore[attr-defined]
            optimizer.found_inf = refused.float()  # type: ignore[attr-defined]
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        elif not bool(refused):
            optimizer.step()
        if self.scaler.is_enabled():
            self.scaler.update()
        self.skipped += refused
        self.in_a_row = torch.where(refused, self.in_a_row + 1, 0)

    def state(self) -> dict[str, float | int]:
        """Return what a checkpoint must hold, in plain numbers."""
        return {
            **self.scaler.state_dict(),
            "skipped": int(self.skipped),
            "in_a_row": int(self.in_a_row),
        }

    def load(self, state: dict[str, float | int]) -> None:
        """Take back what `state` gave."""
        scaler = {name: v for name, v in state.items() if name not in ("skipped", "in_a_row")}
        if self.scaler.is_enabled() and scaler:  # none where another precision wrote it
            self.scaler.load_state_dict(scaler)
        self.skipped.fill_(state["skipped"])
        self.in_a_row.fill_(state["in_a_row"])


def _decides_on_device(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused"))
