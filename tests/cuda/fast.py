"""Part fast of check-gpu: speed beside other loops, options, pruning, memory beside the plan."""

from __future__ import annotations

import shlex
from typing import Any

from tests.cuda.steps import DEVICE, DRY, TINY, Check, has_modules


def fast(check: Check) -> None:
    """Is it fast?"""
    model, context = (TINY, 32) if DRY else ("--model gpt2", 1024)
    shape = f"--dataset text --tokenizer gpt2 {DEVICE} {model} --block-size {context} --dropout 0"
    shape += "" if DRY else " --compile"
    steps, turns = ("1", "1") if DRY else ("4", "3")
    turn = ["--steps", steps, "--repeats", turns]
    large = [*shlex.split(shape), "--batch-size", "2" if DRY else "64"]
    small = [*shlex.split(shape), "--batch-size", "2" if DRY else "32"]
    form = "" if DRY else "-compiled"
    peers = ["plain", *(["transformers"] if has_modules("transformers") else [])]
    # nanoGPT pads its vocabulary, and then all sides have the padded one.
    for names, ids in ((peers, []), (["nanogpt"], ["--vocab-size", "50304"])):
        against = [word for name in names for word in ("--against", name + form)]
        words = [*turn, *ids, *against, "--", *small]
        what = "beside " + ", ".join(name + form for name in names)
        check.step(what, 60, lambda w=words, n=names[0]: _sides(check.bench(n, *w)))
    for mib in ("512", "1024"):
        words = [*turn, "--", *large, "--loss-chunk-mib", mib]
        what = f"loss in chunks of {mib} MiB"
        check.step(what, 30, lambda w=words, m=mib: _sides(check.bench(f"chunk{m}", *w)))
    words = [*turn, "--pruning", "magnitude,movement,state", "--", *small]
    check.step("pruning", 40, lambda: _pruning(check.bench("pruning", *words)))
    check.step(
        "memory beside the plan, kept for later plans",
        30,
        lambda: _memory(check.bench("memory", "--memory", "--", *small)),
    )
    # By what is missed least where the time is up.
    half = "--precision bf16 --residual-precision bf16"
    fused = [] if DRY else ["--loss fused", f"--loss fused {half}"]
    for option in (*fused, "--optimizer muon", "--optimizer-state-precision bf16", half):
        words = [*turn, "--", *large, *option.split()]
        name = option.strip("-").replace(" ", "-")
        check.step(option, 30, lambda w=words, n=name: _sides(check.bench(n, *w)))


def _sides(report: dict[str, Any]) -> str:
    """Say how fast every side of a bench is."""
    (result,) = report["results"]
    parts = []
    for name, side in result["sides"].items():
        mfu = "" if side["mfu"] is None else f", MFU {side['mfu']:.3f}"
        faster = side["ours_faster"]["median"]
        beside = "" if name == "ours" else f", ours {faster:.2f} times as fast"
        parts.append(f"{name} {side['tokens_per_second']:,.0f} tokens/s{mfu}{beside}")
    return "; ".join(parts)


def _pruning(report: dict[str, Any]) -> str:
    rows = report["methods"].items()
    return "; ".join(
        f"{name} steps {100 * row['step']['median']:+.1f} %, event {row['ms']:.0f} ms"
        for name, row in rows
    )


def _memory(report: dict[str, Any]) -> str:
    (row,) = report["results"]
    return (
        f"planned {row['planned'] / 1e9:.2f} GB, allocated {row['allocated'] / 1e9:.2f}, taken "
        f"{row['measured'] / 1e9:.2f}"
    )
