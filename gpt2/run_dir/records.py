"""Records of the files of a run directory: run.json and summary.json.

Every field may be missing: it is None where the program version that wrote the file had no such
entry. A reader that needs an entry declares its own record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gpt2.config.records import Record, stored_as


@dataclass(frozen=True, kw_only=True)
class TokenizerRecord(Record):
    """The tokenizer. characters: of a character tokenizer, in the order of ids."""

    name: str | None = None
    vocab_size: int | None = None
    end_of_text: int | None = None
    characters: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataRecord(Record):
    """The data of a run. source: where its text came from, as the corpus reports it.

    folder: the --data-dir; earlier_folders: those of earlier sessions, with the same data.
    """

    dataset: str | None = None
    data_hash: str | None = None
    source: dict[str, Any] | None = None
    tokenizer: TokenizerRecord | None = None
    folder: str | None = None
    earlier_folders: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WeightsRecord(Record):
    """The weights of --init-from. sha256: of names and tensors, not of a file.

    path: where they were in this session; earlier_paths: in the sessions before.
    """

    path: str | None = None
    sha256: str | None = None
    earlier_paths: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BatchReduction(Record):
    """A batch size that was lowered when memory ran out. batch: training or evaluation."""

    batch: str
    before: int = field(metadata=stored_as("from"))
    after: int = field(metadata=stored_as("to"))
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """run.json: the program, machine, data and state of a run.

    status: running, finished, preempted or failed.
    start, end, resumes: times in UTC, ISO 8601.
    code: SHA-256 of gpt2/; several, joined by "+", where it changed between sessions.
    moved: the conditions that changed in a later session.
    determinism: bitwise or statistical.
    """

    status: str | None = None
    exit_code: int | None = None
    start: str | None = None
    end: str | None = None
    resumes: tuple[str, ...] | None = None
    seed: int | None = None
    planned_steps: int | None = None
    ranks: int | None = None
    effective_batch: int | None = None
    micro_batch: int | None = None
    lowered: tuple[BatchReduction, ...] | None = None
    code: str | None = None
    precision: str | None = None
    precision_why: str | None = None
    compiled: bool | None = None
    compile_failure: str | None = None
    data: DataRecord | None = None
    init_from: WeightsRecord | None = None
    host: str | None = None
    platform: str | None = None
    device: str | None = None
    device_name: str | None = None
    threads: int | None = None
    versions: dict[str, str | None] | None = None
    commit: str | None = None
    moved: tuple[str, ...] | None = None
    attention: str | None = None
    determinism: str | None = None


@dataclass(frozen=True, kw_only=True)
class BestLoss(Record):
    """The lowest validation loss during the run, in nats per token, and its step."""

    step: int | None = None
    val_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class Summary(Record):
    """summary.json: the results of a finished run.

    val_loss: nats per token over the validation split, after the last step; None: NaN or Inf.
    test_loss, val_test_loss: over the test split, and over both as one text; None also where the
        data have no test split.
    sparsity_*: shares of the prunable weights, of the whole model, and of each matrix.
    *_bytes: sizes. seconds and tokens_per_second are of training only.
    mfu: share of the vendor's peak, by 6 N + 12 L d T; None where that is unknown.
    """

    val_loss: float | None = None
    val_perplexity: float | None = None
    bits_per_byte: float | None = None
    test_loss: float | None = None
    test_perplexity: float | None = None
    test_bits_per_byte: float | None = None
    val_test_loss: float | None = None
    val_test_perplexity: float | None = None
    val_test_bits_per_byte: float | None = None
    best: BestLoss | None = None
    steps: int | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    seconds: float | None = None
    parameters: int | None = None
    sparsity_asked: float | None = None
    sparsity_reached: float | None = None
    sparsity_whole: float | None = None
    sparsity_layers: dict[str, float] | None = None
    skipped_steps: int | None = None
    spiked_steps: int | None = None
    rollbacks: int | None = None
    optimizer_state_bytes: int | None = None
    dense_bytes: int | None = None
    sparse_bytes: int | None = None
    peak_host_bytes: int | None = None
    peak_device_bytes: int | None = None
    peak_process_bytes: int | None = None
