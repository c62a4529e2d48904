"""The results of a run: the content of summary.json."""

from __future__ import annotations

from typing import Any

from gpt2.checkpoint.optimizer_state import optimizer_bytes
from gpt2.data.tokens import TokenFile
from gpt2.machine import device
from gpt2.machine.shards import full_tensor
from gpt2.training.evaluation import bits_per_byte, perplexity
from gpt2.training.loop import Parts, Progress
from gpt2.training.recorder import RunRecorder
from gpt2.weights.export_folder import weight_bytes


def results(
    parts: Parts, progress: Progress, recorder: RunRecorder, validation: TokenFile
) -> dict[str, Any]:
    """Return the content of summary.json; the loss is that of the last step.

    Of a sharded run every rank must ask, since each holds a part.
    """
    peak = device.peak_memory(parts.precision.device)  # before anything is put together here
    last = recorder.last
    assert last is not None
    loss, tokens = last["val_loss"], recorder.metrics.tokens_seen()
    sparsity = parts.pruner.sparsity()
    size = weight_bytes({name: full_tensor(p) for name, p in parts.model.named_parameters()})
    return {
        "val_loss": loss,
        "val_perplexity": perplexity(loss),
        "bits_per_byte": bits_per_byte(loss, len(validation.ids) - 1, validation.text_bytes),
        "best": recorder.best,
        "steps": progress.step,
        "tokens": tokens,
        "tokens_per_second": tokens / max(progress.elapsed, 1e-9),
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
