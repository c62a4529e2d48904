"""What a step of each optimizer reads back, for which a GPU waits: counted, with no GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2.config import plugins
from gpt2.config.typed import QUALIFIED
from gpt2.optim.precision import Precision
from gpt2.training.loop import clip, gradient_norm
from tests.support.small import PACKAGE, Small, build

BUILT_IN = [name for name in plugins.names(PACKAGE) if name != QUALIFIED["OPTIMIZER"][0]]
#: Values read in a step. The others cannot be told on the device to leave a step out.
WAITS = {name: int(name in ("nadam", "radam", "rmsprop", "adagrad", "adamax")) for name in BUILT_IN}
#: State that torch keeps on the host, unless the optimizer is fused.
ON_HOST = ("step", "mu_product")
_aten = torch.ops.aten
#: Operations whose result, or its size, the host must know.
READS = (
    _aten._local_scalar_dense,
    _aten.equal,
    _aten.nonzero,
    _aten.masked_select,
    _aten._unique2,
)


class Reads(TorchDispatchMode):
    """Counts the values that are read, but for those of tensors in `known`."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.count, self._known = 0, known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func.overloadpacket in (_aten.index, _aten.index_put, _aten.index_put_) and any(
            place is not None and place.dtype == torch.bool for place in args[1]
        )
        if (func.overloadpacket in READS or by_mask) and id(args[0]) not in self._known:
            self.count += 1
        return func(*args, **(kwargs or {}))


def reads(name: str, *, on_device: bool = True, **given: str) -> float:
    """Values read in each of three steps by the form that a GPU takes, from the second step on."""
    model, cpu = Small(), torch.device("cpu")
    optimizer = build(name, model, **given)
    if hasattr(optimizer, "on_device"):
        optimizer.on_device = on_device
    fused = bool(optimizer.defaults.get("fused"))
    for group in optimizer.param_groups:
        if not fused and group.get("foreach", False) is None and name != "adafactor":
            group["foreach"] = True  # which torch takes by itself on a GPU alone
    precision = Precision("fp32", cpu)
    parameters = list(model.parameters())

    def step(seed: int) -> None:
        model.give_gradients(seed)
        norm = gradient_norm(parameters)
        clip(parameters, 1.0, norm)
        precision.step(optimizer, precision.check_step(torch.tensor(1.0), norm))

    step(0)
    stays = not fused and not (hasattr(optimizer, "on_device") and on_device)
    states = [optimizer.state[p] for p in parameters] if stays else []
    known = {id(state[key]) for state in states for key in ON_HOST if key in state}
    with Reads(known) as mode:
        for seed in range(3):
            step(1 + seed)
    return mode.count / 3


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_step_reads_no_more_than_whether_to_make_it(name: str) -> None:
    assert reads(name) == WAITS[name]


def test_moments_in_bf16_and_parts_of_spam_read_nothing() -> None:
    assert reads("adamw", OPTIMIZER_STATE_PRECISION="bf16") == 0
    spam = {"INTERVAL": "3", "GRACE": "2", "WARMUP": "2", "RESTART_BIAS": "y"}
    assert reads("adamwspam", **{f"ADAMWSPAM_{key}": value for key, value in spam.items()}) == 0


def test_on_a_cpu_they_read_as_torchs_do() -> None:
    """One value a step and, in torch's Adafactor, two for each of five parameters."""
    found = {name: reads(name, on_device=False) for name in ("lion", "adamwspam", "adafactor")}
    assert found == {"lion": 1, "adamwspam": 1, "adafactor": 11}
