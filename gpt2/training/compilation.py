"""torch.compile with a fallback: where it fails, the run continues without it, and says so."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from gpt2.checkpoint.optimizer_state import load_random_state, random_state


def compile_or_fall_back(part: nn.Module, trial: Callable[[], object]) -> str | None:
    """Compile `part` in place and run `trial`, one forward and backward pass through it.

    The pass has no lasting effect: random generators are restored, and the caller drops the
    gradients. Returns None when it worked, else the reason why `part` is not compiled.
    TORCH_COMPILE_DISABLE, with which torch silently compiles nothing, is such a reason.
    """
    if torch._dynamo.config.disable:
        return "TORCH_COMPILE_DISABLE is set in the environment"
    before = random_state()
    part.compile(dynamic=False)
    try:
        trial()
    except (RuntimeError, OSError, ImportError, AssertionError) as error:
        # Dynamo and Inductor raise many types for a missing or broken compiler, all of them
        # RuntimeErrors. A full or lost device is another matter.
        if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)):
            raise
        part._compiled_call_impl = None
        torch._dynamo.reset()
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    finally:
        load_random_state(before)
    return None
