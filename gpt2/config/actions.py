"""Actions of an entry: flags without a Kconfig symbol, which are not options of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gpt2.config.schema import REPOSITORY
from gpt2.config.typed import Size, Within

#: Link to the newest run; every start of train.py in runs/ sets it.
LATEST = REPOSITORY / "runs" / "latest"


@dataclass(frozen=True)
class Help:
    """The help text of an action's flag, and the placeholder of its value."""

    text: str
    metavar: str | None = None


@dataclass(frozen=True)
class NoActions:
    """No actions: the command line holds only options of a run."""


@dataclass(frozen=True, kw_only=True)
class TrainActions:
    """The actions of train.py."""

    run_dir: Annotated[
        Path | None, Help("run directory; an unfinished run in it continues (default: a new one)")
    ] = None
    resume: Annotated[
        bool | None,
        Help("fail unless the directory holds an unfinished run; --no-resume: unless it is empty"),
    ] = None
    check_config: Annotated[bool, Help("validate the options and exit (0: valid)")] = False
    plan: Annotated[
        bool, Help("estimate memory, disk and time, say whether the run fits, and exit")
    ] = False
    plan_json: Annotated[bool, Help("the same as JSON")] = False
    plan_for: Annotated[
        int | None,
        Size(),
        Help("plan for a GPU of this size, such as 24G, instead of this machine"),
    ] = None
    ignore_plan: Annotated[
        bool, Help("start even if the memory plan says the run will not fit")
    ] = False
    auto_batch: Annotated[
        bool,
        Help(
            "take the largest micro-batch that fits (against OOM), and the accumulation that keeps "
            "the effective batch"
        ),
    ] = False
    measure_precision: Annotated[
        bool,
        Help("measure bf16 on this CPU for --precision auto, and exit"),
    ] = False
    list_optimizers: Annotated[
        bool, Help("list the available optimizers, and why others are unavailable, and exit")
    ] = False


@dataclass(frozen=True, kw_only=True)
class PrepareActions:
    """The actions of prepare_data.py."""

    input: Annotated[
        Path | None,
        Help(
            "file or folder to read (.txt .md .jsonl, plain, .gz or .zst; .parquet); for a corpus "
            "of the hub, a folder with its files"
        ),
    ] = None
    text_column: Annotated[
        str | None,
        Help("column of .parquet and key of .jsonl that holds the text (default 'text')", "NAME"),
    ] = None
    adopt: Annotated[
        Path | None, Help("take nanoGPT's train.bin and val.bin from this folder as they are")
    ] = None
    bad_files: Annotated[
        str,
        Help(
            "what to do with a file that is not UTF-8, damaged or not JSON; skip: leave it out, "
            "count and name it (every file is read once more)",
            "{refuse,skip}",
        ),
    ] = "refuse"
    end_of_text: Annotated[
        str,
        Help(
            "what <|endoftext|> in a text is; text: seven ordinary tokens; token: the end of a "
            "document",
            "{text,token}",
        ),
    ] = "text"
    force: Annotated[bool, Help("prepare again, replacing what is there")] = False
    max_tokens: Annotated[
        int | None,
        Help("stop at the first end of a document after this many training tokens (default: all)"),
        Within("[1, inf)"),
    ] = None
    workers: Annotated[
        int | None,
        Help("threads that encode; 0 or 1: the reader encodes (default: one per core)"),
        Within("[0, 1024]"),
    ] = None
    tokenizer_backend: Annotated[
        str,
        Help(
            "auto: gigatoken, which is faster, where it is installed and proves to give tiktoken's "
            "ids; gigatoken: that or an error; tiktoken: the reference",
            "{auto,tiktoken,gigatoken}",
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class SampleActions:
    """The actions of sample.py."""

    run: Annotated[Path, Help("run directory, or what export.py made of one")] = LATEST
    prompt: Annotated[
        str,
        Help("text to continue; empty: start a document (where the data have end-of-text)", "TEXT"),
    ] = "\n"
    tokens: Annotated[int, Help("tokens to write"), Within("[1, 1000000]")] = 200
    temperature: Annotated[
        float, Help("0 takes the likeliest token, 1 samples as trained"), Within("[0, 100]")
    ] = 0.8
    top_k: Annotated[
        int, Help("choose among the k likeliest tokens; 0 is all"), Within("[0, inf)")
    ] = 0
    top_p: Annotated[
        float,
        Help("choose among the fewest likeliest tokens of this probability together; 1 is all"),
        Within("(0, 1]"),
    ] = 1.0
    samples: Annotated[
        int,
        Help("texts to write at once; the second is that of --seed plus 1, and so on"),
        Within("[1, 1000]"),
    ] = 1
    seed: Annotated[int, Help("fixes the text"), Within("[0, 2147483647]")] = 1337
    best: Annotated[bool, Help("use the best checkpoint by validation, not the last")] = False


@dataclass(frozen=True, kw_only=True)
class EvaluateActions:
    """The actions of evaluate.py."""

    run: Annotated[Path, Help("run directory, or what export.py made of one")] = LATEST
    split: Annotated[
        str,
        Help(
            "train, val, test, or val+test: both together are all that nanoGPT validates on",
            "SPLIT",
        ),
    ] = "val"
    best: Annotated[bool, Help("use the best checkpoint by validation, not the last")] = False


@dataclass(frozen=True, kw_only=True)
class ExportActions:
    """The actions of export.py."""

    run: Annotated[Path, Help("run directory, or what export.py made of one")] = LATEST
    format: Annotated[
        str,
        Help(
            "hf: what transformers loads; sparse: packed bits and the values that are not zero; "
            "dense: one safetensors file under our names",
            "{hf,sparse,dense}",
        ),
    ] = "hf"
    best: Annotated[bool, Help("use the best checkpoint by validation, not the last")] = False
    dtype: Annotated[
        str, Help("number format; bf16 is half as large and rounds the weights", "{fp32,bf16}")
    ] = "fp32"
    out: Annotated[
        Path | None, Help("folder to write, new or empty (default: export/FORMAT in the run)")
    ] = None
    force: Annotated[bool, Help("replace an existing export")] = False
