"""train.py for ranks that share one card: over gloo, since NCCL wants a card for each.

torchrun starts it with the flags of train.py. It shows DDP and the way of the gradients with CUDA
tensors where there is one card; NCCL itself needs two.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist

from gpt2.train import main

_init = dist.init_process_group


def _over_gloo(_: str, **more: Any) -> None:
    _init("gloo", **more)


dist.init_process_group = _over_gloo
if torch.cuda.is_available():
    _set = torch.cuda.set_device
    torch.cuda.device_count = lambda: 2
    torch.cuda.set_device = lambda _: _set(0)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
