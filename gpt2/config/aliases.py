"""What nanoGPT and Hugging Face call our flags, and conditions of Kconfig said as flags."""

from __future__ import annotations

from collections.abc import Iterable

import kconfiglib as kc

from gpt2.config.names import flag_of, nearest, word_of

#: {their flag without dashes in front: ours, with its value where the flag alone would not do}.
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
    # what else is typed
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


def with_dashes(flag: str) -> str:
    """Return a flag as ours are written: --learning_rate -> --learning-rate."""
    return flag.replace("_", "-")


def hint(flag: str, known: Iterable[str], most: int = 2, likeness: float = 0.65) -> str:
    """Return a hint for an unknown flag: what it is called here, or the nearest known ones."""
    flags = list(known)
    ours = ALIASES.get(with_dashes(flag).lower().lstrip("-"), "")
    if ours.split(" ")[0] in flags:
        return f"; here that is {ours}"
    return nearest(flag, flags, most, likeness)


def as_flags(condition: object) -> str:
    """Return a condition of Kconfig in flags: OPTIMIZER_SGD -> --optimizer sgd.

    What no flag sets directly is said by what sets it, and else as Kconfig writes it.
    """
    if isinstance(condition, tuple):
        if condition[0] in (kc.AND, kc.OR):
            parts = [as_flags(part) for part in kc.split_expr(condition, condition[0])]
            return (" and " if condition[0] == kc.AND else " or ").join(parts)
        if condition[0] == kc.NOT and isinstance(condition[1], kc.Symbol):
            return _of_symbol(condition[1], wanted=False)
    elif isinstance(condition, kc.Symbol):
        return _of_symbol(condition, wanted=True)
    return str(kc.expr_str(condition))


def _of_symbol(symbol: kc.Symbol, wanted: bool) -> str:
    prompted = any(node.prompt for node in symbol.nodes)
    if symbol.choice is not None and symbol.choice.name:
        return _of_choice(symbol.choice.name, [symbol], wanted)
    if prompted and symbol.orig_type == kc.BOOL:
        flag = flag_of(symbol.name)
        return flag if wanted else flag.replace("--", "--no-", 1)
    setting = [item for item in kc.expr_items(symbol.rev_dep) if isinstance(item, kc.Symbol)]
    members = [item for item in setting if item.choice is not None and item.choice.name]
    choices = {item.choice.name for item in members}
    if not prompted and len(choices) == 1:
        return _of_choice(choices.pop(), members, wanted)
    return symbol.name if wanted else f"!{symbol.name}"


def _of_choice(choice: str, members: Iterable[kc.Symbol], wanted: bool) -> str:
    *most, last = sorted(word_of(member.name, choice) for member in members)
    words = f"{', '.join(most)} or {last}" if most else last
    return f"{flag_of(choice)} {words}" if wanted else f"a {flag_of(choice)} other than {words}"
