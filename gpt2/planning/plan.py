"""The memory plan of a run, computed from its configuration before it starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from gpt2.config.sizes import show_size
from gpt2.config.typed import QUALIFIED, Config
from gpt2.machine import device as machine
from gpt2.machine import host_memory as hosts
from gpt2.model.attention import kernel_chosen
from gpt2.model.loss import chunk_mib
from gpt2.planning import probe
from gpt2.planning.calibration import ratio_of
from gpt2.planning.cpu_precision import begun, choose
from gpt2.planning.remedies import (
    CONTEXT,
    HEAP,
    RESERVED,
    Alternative,
    Changed,
    MemoryBudget,
    Remedy,
    remedies,
)
from gpt2.planning.step import peak_of
from gpt2.planning.step_shape import FP32, StepShape

#: Anonymous memory of Python and torch's CPU build with this program: measured.
INTERPRETER = 230_000_000
#: The same with a GPU, with CUDA's libraries in use: assumed.
INTERPRETER_CUDA = 2_000_000_000
#: Upper bounds: a built-in optimizer's state and step, as multiples of the parameters' bytes, and a
#: pruning event, in bytes per weight of the largest matrix.
_STATE, _STEP, _EVENT = 3, 4, 64


@dataclass(frozen=True)
class Planned:
    """A planned step, and the memory available to it."""

    config: Config
    precision: str
    device: torch.device
    shape: StepShape
    budget: MemoryBudget

    @property
    def surely_fits(self) -> bool:
        """Return whether even an upper bound of the step fits; needs no trace."""
        return self.budget.fits(self.shape, roughly=True)

    @property
    def fits(self) -> bool:
        """Return whether the step fits, as far as is known."""
        return self.budget.fits(self.shape)

    @property
    def effective(self) -> int:
        """Return the sequences of a step on this process."""
        return self.config.train.batch_size * self.config.train.gradient_accumulation

    @property
    def host(self) -> int:
        """Return the peak anonymous host memory of the process."""
        if self.device.type == "cpu":
            return INTERPRETER + self.budget.needed(peak_of(self.shape))
        # The largest tensor passes through the host when it is drawn, loaded and saved.
        copied = self.shape.checkpoint if self.config.train.async_checkpoint else 0
        return INTERPRETER_CUDA + 2 * FP32 * self.shape.embedding + copied

    def remedies(self) -> list[Remedy]:
        """Return changes that make it fit, the cheapest first."""
        return remedies(self.shape, self.effective, self.budget, _ways(self))


def plan(
    config: Config,
    vocab_size: int,
    plan_for: int | None = None,
    bounds: bool = False,
    here: int = 1,
    run: Path | None = None,
) -> Planned:
    """Plan a run of `config` on this machine, or on a GPU of `plan_for` bytes.

    `here` processes of the run share this machine. A run that resumes in `run` keeps its precision.
    With `bounds`, optimizer and pruning have their upper bounds, which takes no time; otherwise
    they are tried out. Raises UserError.
    """
    where = config.machine
    device = torch.device("cuda")
    if not plan_for:
        device = machine.resolve_device(where.device, where.device_index)
    if began := begun(config, device, run):
        precision = began.precision
    elif plan_for and config.optim.precision == "auto":
        precision = "bf16"
    else:
        precision = choose(config, device, measure=False).precision
    shape = _step_shape(config, vocab_size, device, precision, there=not plan_for)
    if bounds:
        size = FP32 * shape.parameters
        state, step, masks, event = _STATE * size, _STEP * size, 0, 0
        if config.prune is not None or config.model.keep_sparsity:
            masks, event = 2 * size, _EVENT * shape.embedding
    else:
        state, step = probe.of_optimizer(config, vocab_size, device.type)
        masks, event = probe.of_pruning(config, vocab_size)
    shape = dataclasses.replace(shape, state=state, step=step, masks=masks, event=event)
    return Planned(config, precision, device, shape, _budget(config, device, plan_for, here))


def bounded(config: Config) -> bool:
    """Return whether plan(bounds=True) is valid: library optimizers have no bound."""
    return config.optim.optimizer != QUALIFIED["OPTIMIZER"][0]


def _step_shape(
    config: Config, vocab_size: int, device: torch.device, precision: str, there: bool
) -> StepShape:
    model, train = config.model, config.train
    cuda, asked, fused = device.type == "cuda", model.loss_chunk_mib, model.loss == "fused"
    return StepShape(
        layers=model.n_layer,
        heads=model.n_head,
        width=model.n_embd,
        block=model.block_size,
        vocabulary=vocab_size,
        bias=model.bias,
        batch=train.batch_size,
        accumulated=train.gradient_accumulation > 1,
        precision=precision,
        attention=_attention(config, device, precision, there),
        dropout=model.dropout > 0.0,
        cpu_kernels=not cuda,
        chunk_mib=None if asked is None else chunk_mib(asked, device.type, fused),
        tall=device.type == "cpu" and precision == "fp32" and not fused,
        fused=fused,
        checkpointing=model.activation_checkpointing,
        half_residual=model.residual_precision == "bf16",
        state=0,
        step=0,
        copied=train.async_checkpoint and device.type == "cpu",
    )


def _attention(config: Config, device: torch.device, precision: str, there: bool) -> str:
    """Return the kind of attention on `device`; asks torch if the device is `there`."""
    model = config.model
    if not model.flash_attention:
        return "written out"
    if device.type == "cuda" and there:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
        kernel = kernel_chosen(model, 1, dtype, device)
        return "math" if kernel == "math" else "fused"
    # The fused CPU kernel has no dropout; torch then takes another.
    return "fused" if device.type == "cuda" or model.dropout == 0.0 else "math"


def _budget(config: Config, device: torch.device, plan_for: int | None, here: int) -> MemoryBudget:
    if plan_for:
        name = f"a GPU of {show_size(plan_for)}"
        return MemoryBudget(name, plan_for, RESERVED, CONTEXT, most=plan_for)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        free, total = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device)
        return MemoryBudget(name, free, ratio_of(name) or RESERVED, most=total)
    host = hosts.Host()
    if device.type != "cpu" or not host.watched:
        return MemoryBudget(f"memory of {device.type}", None)
    own = hosts.budget(config.machine.host_memory_limit, host, here)
    room = min(pool.available - pool.floor for pool in host.pools()) // here
    most = own.bytes - INTERPRETER
    free = max(0, min(most, room))
    return MemoryBudget(f"this machine ({own.why})", free, HEAP, heap=True, most=most)


def _ways(planned: Planned) -> list[Alternative]:
    """Return ways to compute the same step with less memory, the cheapest first."""
    config, shape = planned.config, planned.shape
    ways: list[tuple[str, str, dict[str, object]]] = []
    if shape.copied:
        ways.append(("--no-async-checkpoint", "steps wait for the disk", {"copied": False}))
    small = chunk_mib(0, "cpu")
    if shape.chunk_mib is not None and shape.chunk_mib > small:
        cost = "the loss in smaller chunks, slower on a GPU"
        ways.append((f"--loss-chunk-mib {small}", cost, {"chunk_mib": small}))
    if shape.checkpointing == "none":
        ways.append(
            (
                "--activation-checkpointing selective",
                "norms and GELUs are computed twice",
                {"checkpointing": "selective"},
            )
        )
    full = ("--activation-checkpointing full", "forward passes are computed twice")
    deep: dict[str, object] = {"checkpointing": "full"}
    if shape.checkpointing != "full":
        ways.append((*full, deep))
    if not shape.mixed and planned.device.type == "cuda":
        deep = {**deep, "precision": "bf16", "tall": False}
        full = (f"--precision bf16 {full[0]}", f"rounded products, {full[1]}")
        ways.append((*full, deep))
    options = config.optim.options
    own = {f.name for f in dataclasses.fields(options)} if options is not None else set()
    if "state_precision" in own and options.state_precision == "fp32":
        half = {**deep, "state": shape.state // 2}
        flags = f"--optimizer-state-precision bf16 {full[0]}"
        ways.append((flags, f"moments in 16 bits, {full[1]}", half))
    lion = {**deep, "state": FP32 * shape.parameters, "step": 3 * FP32 * shape.parameters}
    if shape.state > FP32 * shape.parameters and config.prune is None:
        ways.append((f"--optimizer lion {full[0]}", "another optimizer, other results", lion))
    return [Alternative(flags, cost, _changing(changes)) for flags, cost, changes in ways]


def _changing(changes: dict[str, object]) -> Changed:
    return lambda shape: dataclasses.replace(shape, **changes)  # type: ignore[arg-type]
