"""The closure of torch.optim: what an optimizer may call to compute the loss again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def evaluated(closure: Callable[[], Any] | None) -> Any:
    """Call the closure of `step` with gradients enabled; return its loss, None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
