"""torch.compile with a way back: where it cannot work, the run goes on without, and says so."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from gpt2.checkpoint.optimizer_state import load_random_state, random_state


def compile_or_fall_back(part: nn.Module, trial: Callable[[], object]) -> str | None:
    """Compile `part` in place and run `trial`, one forward and backward pass through it.

    The pass leaves no trace: the random generators are put back, the caller drops the gradients.
    Returns None when it worked, else the reason why `part` stays as it was; under
    TORCH_COMPILE_DISABLE, by which torch compiles nothing and says nothing, that is the reason.
    """
    if torch._dynamo.config.disable:
        return "TORCH_COMPILE_DISABLE is set in the environment"
    before = random_state()
    part.compile(dynamic=False)
    try:
        trial()
    except (RuntimeError, OSError, ImportError, AssertionError) as error:
        # Dynamo and Inductor wrap what a missing or broken compiler raises in many types, all of
        # them RuntimeErrors; a device that is full, or lost to an error of its own, is not theirs.
        if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)):
            raise
        part._compiled_call_impl = None
        torch._dynamo.reset()
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    finally:
        load_random_state(before)
    return None
