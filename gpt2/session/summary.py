"""The results of a run: the content of summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from gpt2.checkpoint.optimizer_state import optimizer_bytes
from gpt2.checkpoint.tensor_file import LazyTensors
from gpt2.data.tokens import TokenFile
from gpt2.machine import device
from gpt2.machine.shards import full_tensor
from gpt2.training.evaluation import bits_per_byte, perplexity
from gpt2.training.final_losses import VAL_TEST, FinalLosses
from gpt2.training.loop import Parts, Progress
from gpt2.training.recorder import RunRecorder
from gpt2.weights.export_folder import weight_bytes


def results(
    parts: Parts,
    progress: Progress,
    recorder: RunRecorder,
    data: Mapping[str, TokenFile],
    losses: FinalLosses,
) -> dict[str, Any]:
    """Return the content of summary.json; the losses are those of the last step.

    Every rank of a sharded run must call it, since each holds a part.
    """
    peak = device.peak_memory(parts.precision.device)  # read before this function allocates
    last = recorder.last
    assert last is not None
    tokens = recorder.metrics.tokens_seen()
    val = _measures("val", last["val_loss"], data["val"])
    sparsity = parts.pruner.sparsity()
    named = parts.model.named_parameters()  # one whole parameter at a time
    size = weight_bytes(LazyTensors({name: partial(full_tensor, p) for name, p in named}))
    return {
        "val_loss": val["val_loss"],
        "val_perplexity": val["val_perplexity"],
        "bits_per_byte": val["val_bits_per_byte"],
        **_measures("test", losses.test, data.get("test")),
        **_measures("val_test", losses.val_test, data.get(VAL_TEST)),
        "best": recorder.best,
        "steps": progress.step,
        "tokens": tokens,
        "tokens_per_second": tokens / max(progress.elapsed, 1e-9),
        "mfu": parts.mfu(tokens / max(progress.elapsed, 1e-9)),
        "seconds": progress.elapsed,
        "parameters": sum(parameter.numel() for parameter in parts.model.parameters()),
        "sparsity_asked": sparsity.asked,
        "sparsity_reached": sparsity.reached,
        "sparsity_whole": sparsity.whole,
        "sparsity_layers": dict(sparsity.layers),
        **recorder.metrics.skipped(),
        "optimizer_state_bytes": optimizer_bytes(parts.optimizer),
        "dense_bytes": size["dense"],
        "sparse_bytes": size["sparse"],
        **peak,
    }


def _measures(name: str, loss: float | None, split: TokenFile | None) -> dict[str, float | None]:
    """Return a loss as loss, perplexity and bits per byte; all None without the split."""
    if loss is None or split is None:
        return dict.fromkeys((f"{name}_loss", f"{name}_perplexity", f"{name}_bits_per_byte"))
    return {
        f"{name}_loss": loss,
        f"{name}_perplexity": perplexity(loss),
        f"{name}_bits_per_byte": bits_per_byte(loss, len(split.ids) - 1, split.text_bytes),
    }
