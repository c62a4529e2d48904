"""Names of our flags in nanoGPT and Hugging Face."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from gpt2.config.actions import (
    EvaluateActions,
    ExportActions,
    PrepareActions,
    SampleActions,
    TrainActions,
)
from gpt2.config.names import flag_of, nearest

#: {their flag without leading dashes: ours, with a value if the flag alone is not enough}.
ALIASES: dict[str, str] = {
    # nanoGPT
    "max-iters": "--max-steps",
    "warmup-iters": "--warmup-steps",
    "lr-decay-iters": "--max-steps",
    "decay-lr": "--lr-schedule cosine",
    "eval-iters": "--eval-interval",
    "out-dir": "--run-dir",
    "gradient-accumulation-steps": "--gradient-accumulation",
    "dtype": "--precision",
    "beta1": "--adamw-beta1",
    "beta2": "--adamw-beta2",
    "wandb": "--tracker wandb",
    "wandb-log": "--tracker wandb",
    "always-save-checkpoint": "--checkpoint-interval",
    "start": "--prompt",
    "num-samples": "--samples",
    "max-new-tokens": "--tokens",
    # Hugging Face
    "lr": "--learning-rate",
    "epochs": "--num-epochs",
    "num-train-epochs": "--num-epochs",
    "train-batch-size": "--batch-size",
    "per-device-train-batch-size": "--batch-size",
    "per-device-eval-batch-size": "--eval-batch-size",
    "output-dir": "--run-dir",
    "resume-from-checkpoint": "--run-dir",
    "model-name-or-path": "--init-from",
    "logging-steps": "--log-interval",
    "eval-steps": "--eval-interval",
    "save-steps": "--checkpoint-interval",
    "lr-scheduler-type": "--lr-schedule",
    "max-grad-norm": "--grad-clip",
    "optim": "--optimizer",
    "adam-epsilon": "--adamw-eps",
    "bf16": "--precision bf16",
    "fp16": "--precision fp16",
    "fp32": "--precision fp32",
    "report-to": "--tracker",
    "tensorboard": "--tracker tensorboard",
    "gradient-checkpointing": "--activation-checkpointing full",
    "torch-compile": "--compile",
    "fsdp": "--shard fsdp",
    "dataloader-num-workers": "--num-workers",
    # other common names
    "steps": "--max-steps",
    "iters": "--max-steps",
    "seq-len": "--block-size",
    "context-length": "--block-size",
    "amp": "--precision",
    "sparsity": "--target-sparsity",
    "prune": "--pruning-method magnitude",
    "workers": "--num-workers",
    "threads": "--num-threads",
    "gpu": "--device cuda",
    "cpu": "--device cpu",
    "checkpoint": "--run",
    "ckpt": "--run",
}


#: The entries, and their actions.
_ENTRIES: dict[str, type[Any]] = {
    "train.py": TrainActions,
    "prepare_data.py": PrepareActions,
    "sample.py": SampleActions,
    "evaluate.py": EvaluateActions,
    "export.py": ExportActions,
}


def _has(actions: type[Any], flag: str) -> bool:
    """Return whether an entry with these actions has `flag`."""
    return flag in {flag_of(field.name) for field in dataclasses.fields(actions)}


def with_dashes(flag: str) -> str:
    """Return a flag with dashes: --learning_rate -> --learning-rate."""
    return flag.replace("_", "-")


def hint(flag: str, known: Iterable[str], most: int = 2, likeness: float = 0.65) -> str:
    """Return a hint for an unknown flag: its name here, or the nearest known ones."""
    flags = list(known)
    ours = ALIASES.get(with_dashes(flag).lower().lstrip("-"), "")
    if ours.split(" ")[0] in flags:
        return f"; here it is {ours}"
    if others := [entry for entry, theirs in _ENTRIES.items() if ours and _has(theirs, ours)]:
        return f"; here it is {ours} of {' and '.join(others)}"
    return nearest(flag, flags, most, likeness)
