"""Name and type of every option, in frozen dataclasses; the Kconfig files explain them.

A field `grad_clip` reads the Kconfig symbol GRAD_CLIP and is the flag --grad-clip.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from gpt2.config.sizes import show_size

#: Choices whose members are plug-ins, with the package of their modules.
PLUGIN_PACKAGES = {
    "DATASET": "gpt2.data.corpora",
    "OPTIMIZER": "gpt2.optim.optimizers",
    "PRUNING_METHOD": "gpt2.prune.methods",
    "TRACKER": "gpt2.run_dir.trackers",
}


#: Choices that also take PREFIX:NAME, with the member it selects and the option that holds it.
#: `--optimizer po:soap` is OPTIMIZER_LIBRARY with OPTIMIZER_NAME="po:soap".
QUALIFIED = {"OPTIMIZER": ("library", "OPTIMIZER_NAME")}

#: Choices with a member that takes a number after a colon, and the option that holds it: `--device
#: cuda:1` is DEVICE_CUDA with DEVICE_INDEX=1.
NUMBERED = {"DEVICE": ("cuda", "DEVICE_INDEX")}

#: Options in seconds; their flags also take 90s, 5m and 1h.
TIMES = ("MAX_TIME",)
#: Options for which 0 means no limit.
LIMITS = ("NUM_EPOCHS", "MAX_STEPS", "MAX_TIME")
#: Options that are comma-separated lists of key=value, with the flag that adds one.
REPEATABLE = {"OPT_ARGS": "--opt-arg"}

#: Options that are paths: relative to the current folder in a flag, else to the repository.
PATHS = ("DATA_DIR", "INIT_FROM")

#: Smallest --host-memory-limit, in bytes: twice what Python and torch's CPU build take.
LEAST_HOST_MEMORY = 300_000_000

#: Allowed names of a run: the name becomes part of a folder's name.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Within:
    """The interval of a number, in mathematical notation: "[0, 1)".

    share: it is a share of a whole, which some people write in percent.
    """

    interval: str
    share: bool = False

    def __contains__(self, value: float) -> bool:
        low, high = (float(end) for end in self.interval[1:-1].split(","))
        above = value >= low if self.interval[0] == "[" else value > low
        below = value <= high if self.interval[-1] == "]" else value < high
        return above and below


@dataclass(frozen=True)
class Auto:
    """Marks a value that may be `auto`, which becomes None."""


@dataclass(frozen=True)
class Size:
    """Marks a number of bytes that is written with its unit: 6G, 500M, 6GiB."""


@dataclass(frozen=True)
class OptionsOf:
    """Marks a plug-in's field that holds the `Options` of another one, chosen in `choice`.

    `kind` is the choice of that plug-in's kind, such as OPTIMIZER.
    """

    choice: str
    kind: str


@dataclass(frozen=True)
class Required:
    """The error message for an option that has neither a value nor a default."""

    message: str


@dataclass(frozen=True)
class Named:
    """The symbol of a plug-in's option, if it is not the plug-in's name and the option's."""

    symbol: str


@dataclass(frozen=True)
class ResultNeutral:
    """Marks an option that does not change results, except by rounding, recorded in run.json.

    It may differ when a run is resumed, and does not distinguish rows of a report. `unless` is
    another option and the value of it for which this is not true.
    """

    unless: tuple[str, str] | None = None


@dataclass(frozen=True)
class Identity:
    """Marks an option that identifies a run, or locates its data or initial weights.

    It does not distinguish rows. Only a `path` may differ when a run is resumed: the content is
    compared by its hash, by resume and report alike.
    """

    path: bool = False


@dataclass(frozen=True)
class Recorded:
    """Marks an option whose outcome run.json records; rows are compared by the outcome.

    `product`: when a run is resumed, only the product of these options must be the same.
    """

    product: bool = False


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The training data."""

    dataset: str
    tokenizer: str | None
    data_dir: Annotated[Path, Identity(path=True)]
    num_workers: Annotated[int, ResultNeutral()]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model."""

    model: str
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    dropout: Annotated[float, Within("[0, 1)")]
    bias: bool
    flash_attention: bool
    activation_checkpointing: Annotated[str, ResultNeutral()]
    residual_precision: str | None
    loss: str
    loss_chunk_mib: int | None
    init_from: Annotated[Path | None, Identity(path=True)]
    keep_sparsity: bool | None

    def __post_init__(self) -> None:
        """Check that the heads divide the width.

        Raises ValueError.
        """
        if self.n_embd % self.n_head:
            raise ValueError(
                f"--n-embd {self.n_embd} cannot be shared by --n-head {self.n_head}: "
                f"the width must be a multiple of the number of heads"
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and schedule. `options` is the optimizer's own `Options`, or None."""

    optimizer: str
    options: Any
    learning_rate: Annotated[
        float,
        Within("[0, inf)"),
        Required(
            "--learning-rate is needed: an optimizer of a library has no default; a rate to start "
            "from is in the column 'descends at' of docs/optimizers.md"
        ),
    ]
    min_lr: Annotated[float | None, Auto(), Within("[0, inf)")]
    warmup_steps: Annotated[int | None, Auto(), Within("[0, inf)")]
    lr_schedule: str
    wsd_decay: Annotated[float | None, Within("[0, 1]")]
    weight_decay: Annotated[float, Within("[0, inf)")]
    grad_clip: Annotated[float, Within("[0, inf)")]
    precision: Annotated[str, Recorded()]

    def __post_init__(self) -> None:
        """Check that the learning rate does not rise at the end.

        Raises ValueError.
        """
        if self.min_lr is not None and self.min_lr > self.learning_rate:
            raise ValueError(
                f"--min-lr {self.min_lr:g} is above --learning-rate {self.learning_rate:g}: "
                f"lower it, or leave it at auto"
            )


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Pruning. `options` is the chosen method's own `Options`, or None."""

    pruning_method: str
    options: Any
    target_sparsity: Annotated[float, Within("[0, 1)", share=True)]
    sparsity_pattern: str
    prune_scope: str
    pruning_schedule: str | None
    pruning_start: Annotated[float, Within("[0, 1]", share=True)]
    pruning_end: Annotated[float | None, Within("[0, 1]", share=True)]
    pruning_interval: Annotated[int | None, Auto(), Within("[1, inf)")]
    calibration_sequences: int | None

    def __post_init__(self) -> None:
        """Check the ramp's start and end, and the sparsity of an n:m pattern.

        Raises ValueError.
        """
        if self.pruning_end is not None and self.pruning_start >= self.pruning_end:
            raise ValueError(
                f"--pruning-start {self.pruning_start:g} is not below --pruning-end "
                f"{self.pruning_end:g}: give a later end, or an earlier start"
            )
        if ":" in self.sparsity_pattern and self.target_sparsity != 0.5:
            raise ValueError(
                f"--sparsity-pattern {self.sparsity_pattern} is a --target-sparsity of 0.5, not "
                f"{self.target_sparsity:g}: leave it at 0.5, or choose another pattern"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The length of a run, its output, and how it treats spikes, NaN and Inf.

    `eval_batch_size` None is `batch_size`; the options of spikes are None if spikes are not
    detected. `options` is the chosen tracker's own `Options`, or None.
    """

    options: Any

    batch_size: Annotated[int, Recorded(product=True)]
    gradient_accumulation: Annotated[int, Recorded(product=True)]
    num_epochs: Annotated[float, Within("[0, inf)")]
    max_steps: int
    max_time: int
    eval_interval: Annotated[int, ResultNeutral()]
    eval_batch_size: Annotated[int | None, Auto(), Within("[1, 65536]"), ResultNeutral()]
    log_interval: Annotated[int, ResultNeutral()]
    # A rollback returns to the last checkpoint, so its step matters.
    checkpoint_interval: Annotated[int, ResultNeutral(unless=("spike", "rollback"))]
    save_every_best: Annotated[bool, ResultNeutral()]
    async_checkpoint: Annotated[bool, ResultNeutral()]
    nonfinite: str
    spike: str
    spike_window: int | None
    spike_sigmas: Annotated[float | None, Within("(0, inf)")]
    max_rollbacks: Annotated[int | None, ResultNeutral()]
    sample_tokens: Annotated[int, ResultNeutral()]
    tracker: Annotated[str, ResultNeutral()]
    name: Annotated[str, ResultNeutral()]
    seed: Annotated[int, Identity()]

    def __post_init__(self) -> None:
        """Check that the run has an end, and a name that folders can have.

        Raises ValueError.
        """
        if self.name and not _NAME.fullmatch(self.name):
            raise ValueError(
                f"--name {self.name!r}: use letters, digits, dots, dashes and underscores, at most "
                "80, beginning with a letter or digit"
            )
        if not (self.num_epochs or self.max_steps or self.max_time):
            raise ValueError("no limit ends this run: give --num-epochs, --max-steps or --max-time")


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """The device and the way of computing."""

    device: Annotated[str, ResultNeutral()]
    device_index: Annotated[int | None, ResultNeutral()]
    shard: Annotated[str, ResultNeutral()]
    compile: Annotated[bool | None, Recorded()]
    deterministic: Annotated[bool, Recorded()]
    num_threads: Annotated[int, ResultNeutral()]
    host_memory_limit: Annotated[int | None, Auto(), Size(), ResultNeutral()]
    hang_timeout: Annotated[int | None, Auto(), Within("[0, 1e8]"), ResultNeutral()]

    def __post_init__(self) -> None:
        """Check that the memory limit is above what Python and torch take.

        Raises ValueError.
        """
        limit = self.host_memory_limit
        if limit is not None and limit < LEAST_HOST_MEMORY:
            raise ValueError(
                f"--host-memory-limit {show_size(limit)} is less than any run needs: "
                f"give at least {show_size(LEAST_HOST_MEMORY)}, or auto"
            )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that defines a run. `prune` is None without pruning."""

    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    prune: PruneConfig | None
    train: TrainConfig
    machine: MachineConfig
