"""Name and type of every option, in frozen dataclasses; their meaning is in the Kconfig files.

A field `grad_clip` reads the Kconfig symbol GRAD_CLIP and is the flag --grad-clip.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from gpt2.config.sizes import show_size

#: Choices whose members are plug-ins: the package that holds one module for each.
PLUGIN_PACKAGES = {
    "DATASET": "gpt2.data.corpora",
    "OPTIMIZER": "gpt2.optim.optimizers",
    "PRUNING_METHOD": "gpt2.prune.methods",
    "TRACKER": "gpt2.run_dir.trackers",
}


#: Choices that also take PREFIX:NAME: the member which stands for that, and the option that holds
#: it. `--optimizer po:soap` is OPTIMIZER_LIBRARY with OPTIMIZER_NAME="po:soap".
QUALIFIED = {"OPTIMIZER": ("library", "OPTIMIZER_NAME")}

#: Choices of which a member may have a number behind a colon, and the option that holds it:
#: `--device cuda:1` is DEVICE_CUDA with DEVICE_INDEX=1.
NUMBERED = {"DEVICE": ("cuda", "DEVICE_INDEX")}

#: Options of seconds, whose flags take 90s, 5m and 1h too.
TIMES = ("MAX_TIME",)
#: Options of which 0 is no limit.
LIMITS = ("NUM_EPOCHS", "MAX_STEPS", "MAX_TIME")
#: Options that are lists of key=value with commas between: the flag that adds one.
REPEATABLE = {"OPT_ARGS": "--opt-arg"}

#: Options that are paths: relative to the current folder in a flag, else to the repository.
PATHS = ("DATA_DIR", "INIT_FROM")

#: Bytes below which no run can stay: twice what Python and torch (its CPU build) hold alone.
LEAST_HOST_MEMORY = 300_000_000

#: What the name of a run may be: it becomes a part of a folder's name.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Within:
    """The interval a number must lie in, written as in mathematics: "[0, 1)"."""

    interval: str

    def __contains__(self, value: float) -> bool:
        low, high = (float(end) for end in self.interval[1:-1].split(","))
        above = value >= low if self.interval[0] == "[" else value > low
        below = value <= high if self.interval[-1] == "]" else value < high
        return above and below


@dataclass(frozen=True)
class Auto:
    """Marks a value that may be the word `auto`, which becomes None."""


@dataclass(frozen=True)
class Size:
    """Marks a number of bytes that is written with its unit: 6G, 500M, 6GiB."""


@dataclass(frozen=True)
class OptionsOf:
    """Marks a plug-in's field that holds the `Options` of another, chosen in `choice`.

    `kind` is the choice of that plug-in's own kind, such as OPTIMIZER.
    """

    choice: str
    kind: str


@dataclass(frozen=True)
class Required:
    """What to say where an option has neither a value nor a default with the others chosen."""

    message: str


@dataclass(frozen=True)
class Named:
    """The symbol of a plug-in's option, where it is not the plug-in's name with the option's."""

    symbol: str


@dataclass(frozen=True)
class ResultNeutral:
    """Marks an option that changes no result, or by rounding alone, which run.json then records.

    It may differ when a run is resumed, and makes no difference between rows of a report. `unless`
    names another option and the value with which that does not hold.
    """

    unless: tuple[str, str] | None = None


@dataclass(frozen=True)
class Identity:
    """Marks an option that says which run it is, or where its data or first weights lie.

    It makes no difference between rows. Only a `path` may differ when a run is resumed: what lies
    there is compared by its hash, by resume and report alike.
    """

    path: bool = False


@dataclass(frozen=True)
class Recorded:
    """Marks an option of which run.json records what it came to: that is compared between rows.

    `product`: when a run is resumed, only the product of these options must be the same.
    """

    product: bool = False


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the model is trained on."""

    dataset: str
    tokenizer: str | None
    data_dir: Annotated[Path, Identity(path=True)]
    num_workers: Annotated[int, ResultNeutral()]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What is trained."""

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
        """Refuse a width that the heads cannot share. Raises ValueError."""
        if self.n_embd % self.n_head:
            raise ValueError(
                f"--n-embd {self.n_embd} cannot be shared by --n-head {self.n_head}: "
                f"the width must be a multiple of the number of heads"
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move. `options` is the chosen optimizer's own `Options`, or None."""

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
        """Refuse a schedule that would rise to its end. Raises ValueError."""
        if self.min_lr is not None and self.min_lr > self.learning_rate:
            raise ValueError(
                f"--min-lr {self.min_lr:g} is above --learning-rate {self.learning_rate:g}: "
                f"lower it, or leave it at auto"
            )


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Which weights go. `options` is the chosen method's own `Options`, or None."""

    pruning_method: str
    options: Any
    target_sparsity: Annotated[float, Within("[0, 1)")]
    sparsity_pattern: str
    prune_scope: str
    pruning_schedule: str | None
    pruning_start: Annotated[float, Within("[0, 1]")]
    pruning_end: Annotated[float | None, Within("[0, 1]")]
    pruning_interval: Annotated[int | None, Auto(), Within("[1, inf)")]
    calibration_sequences: int | None

    def __post_init__(self) -> None:
        """Refuse a ramp that ends before it starts and a pattern's other sparsity: ValueError."""
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
    """How long a run is, what it leaves behind, and which of its steps it makes.

    `eval_batch_size` None is `batch_size`; those of spikes are None where none is looked for.
    `options` is the chosen tracker's own `Options`, or None.
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
    # A rollback goes back to the last checkpoint, wherever that is.
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
        """Refuse a run without an end, and a name that no folder can have. Raises ValueError."""
        if self.name and not _NAME.fullmatch(self.name):
            raise ValueError(
                f"--name {self.name!r}: use letters, digits, dots, dashes and underscores, at most "
                "80, beginning with a letter or digit"
            )
        if not (self.num_epochs or self.max_steps or self.max_time):
            raise ValueError("no limit ends this run: give --num-epochs, --max-steps or --max-time")


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Where and in which way it is computed."""

    device: Annotated[str, ResultNeutral()]
    device_index: Annotated[int | None, ResultNeutral()]
    shard: Annotated[str, ResultNeutral()]
    compile: Annotated[bool | None, Recorded()]
    deterministic: Annotated[bool, Recorded()]
    num_threads: Annotated[int, ResultNeutral()]
    host_memory_limit: Annotated[int | None, Auto(), Size(), ResultNeutral()]
    hang_timeout: Annotated[int | None, Auto(), Within("[0, 1e8]"), ResultNeutral()]

    def __post_init__(self) -> None:
        """Refuse a limit that Python and torch alone would reach. Raises ValueError."""
        limit = self.host_memory_limit
        if limit is not None and limit < LEAST_HOST_MEMORY:
            raise ValueError(
                f"--host-memory-limit {show_size(limit)} is less than any run needs: "
                f"give at least {show_size(LEAST_HOST_MEMORY)}, or auto"
            )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that defines a run. `prune` is None when nothing is pruned."""

    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    prune: PruneConfig | None
    train: TrainConfig
    machine: MachineConfig
