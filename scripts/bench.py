"""Speed and memory of training, side by side with peers: one process, turn by turn, one table.

What stands after -- are flags of train.py. The data are random tokens, so nothing needs preparing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

REPOSITORY = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(REPOSITORY)

from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import UserError, run_entry
from gpt2.config.typed import Config
from scripts import flags
from scripts.benchmark.tables import tables

if TYPE_CHECKING:
    from scripts.benchmark.contestants import Side

GPT2_VOCABULARY, CHARACTERS = 50257, 65


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


@dataclass(frozen=True)
class _NoActions:
    """After the -- there are options only."""


def main(argv: Sequence[str]) -> int:
    """Measure as `argv` says; print the tables. Raises UserError."""
    own, more = _split(argv)
    arguments = _parser().parse_args(own)
    given = [*(flags_of(arguments.config) if arguments.config else []), *more]
    for path in (arguments.json, arguments.profile):
        if path is not None and not path.resolve().parent.is_dir():
            raise UserError(f"{path}: there is no folder {path.parent} to write it to")
    if arguments.sparse:
        from scripts.benchmark import sparse as bench_sparse

        bench_sparse.main(arguments, _parser().parse_args([]), more)
        return 0
    if arguments.tokenize:
        from scripts.benchmark import tokenize as bench_tokenize

        bench_tokenize.main(arguments.tokenize, arguments.repeats, arguments.json)
        return 0
    if arguments.pruning:
        from scripts.benchmark import pruning as bench_pruning

        flags_for = ["--pruning-interval", str(bench_pruning.INTERVAL), "--pruning-method"]
        pruned = {name: _config([*given, *flags_for, name], None) for name in arguments.pruning}
        vocabulary = arguments.vocab_size or _usual_vocabulary(next(iter(pruned.values())))
        bench_pruning.main(arguments, pruned, vocabulary)
        return 0
    configs = [_config(given, size) for size in arguments.sizes or [None]]
    if arguments.memory:
        from scripts.benchmark import memory as bench_memory

        bench_memory.main(arguments, configs, arguments.vocab_size)
        return 0
    if arguments.checkpoint:
        from scripts.benchmark import checkpoint

        vocabulary = arguments.vocab_size or _usual_vocabulary(configs[0])
        checkpoint.main(arguments, configs, vocabulary)
        return 0
    for block in {config.model.block_size for config in configs}:
        if (arguments.sampling or 0) > block:
            # Past the context nothing is cached, so there is nothing to compare.
            raise UserError(f"--sampling {arguments.sampling}: --block-size {block} holds no more")
    if arguments.profile and len(configs) > 1:
        raise UserError("--profile writes one trace: give one size with it")
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": os.getloadavg()[0],  # before we add to it: what others do here
        "results": [measure(config, arguments) for config in configs],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(tables(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = _Parser(
        prog="bench.py", description=first, epilog=rest, usage="bench.py [...] [-- FLAG ...]"
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="a .config, or the name of a defconfig, to start from")
    peers = "plain (a bare PyTorch loop), transformers, or either with -compiled; repeatable"
    add("--against", metavar="PEER", type=_peer, action="append", default=[], help=peers)
    add("--sizes", metavar="A,B", type=_words, help="measure each of these --model sizes")
    add("--steps", type=_positive, default=3, help="steps of a turn (default 3)")
    add("--repeats", type=_positive, default=7, help="turns of each side (default 7)")
    add("--warmup", type=_positive, default=2, help="steps before anything counts (default 2)")
    ids = "ids of the random tokens (default 50257, or 65 where tokens are characters)"
    add("--vocab-size", metavar="N", type=_vocabulary, help=ids)
    pruning = "measure what these pruning methods cost in training instead"
    add("--pruning", metavar="A,B", type=_words, help=pruning)
    sparse = "measure inference of this run instead: its zeros against the dense model"
    add("--sparse", metavar="RUN", type=Path, help=sparse)
    tokenize = "measure preparation instead, with MB megabytes of made-up text: speed and memory"
    add("--tokenize", metavar="MB", type=_positive, help=tokenize)
    sampling = "write texts of N tokens as well, with and without the cache of keys and values"
    memory = "measure the peak memory of training instead, beside the plan; kept for later plans"
    add("--memory", action="store_true", help=memory)
    saves = "measure saving instead: N steps (10) with one save, at once and in the background"
    add("--checkpoint", metavar="N", type=_positive, nargs="?", const=10, help=saves)
    add("--sampling", metavar="N", type=_positive, help=sampling)
    add("--profile", metavar="FILE", type=Path, help="write a Chrome trace, name the top costs")
    add("--json", metavar="FILE", type=Path, help="write all numbers to this file as well")
    return parser


def _peer(text: str) -> str:
    # Written here: to import them loads torch.
    peers = ("plain", "plain-compiled", "transformers", "transformers-compiled")
    if text not in peers:
        raise argparse.ArgumentTypeError(f"{text!r} is unknown (there are: {', '.join(peers)})")
    return text


def _words(text: str) -> list[str]:
    return text.split(",")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _vocabulary(text: str) -> int:
    if not 2 <= (count := _positive(text)) <= 65536:
        raise argparse.ArgumentTypeError(f"{text} is not within 2..65536")
    return count


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide the command line at the first --."""
    words = list(argv)
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut + 1 :]


def flags_of(name: str) -> list[str]:
    """Return the flags of a .config, or of the defconfig `name`. Raises UserError.

    The repository's .config may be missing: then it is the defconfig that fits the machine.
    """
    path = Path(name)
    if not path.exists():
        if path.resolve() == REPOSITORY / ".config":
            path = flags.fitting_defconfig(quiet=False)
        elif (REPOSITORY / "defconfigs" / name).is_file():
            path = REPOSITORY / "defconfigs" / name
        else:
            raise UserError(f"--config {name}: there is no such file, and no such defconfig")
    return flags.flags(path)


def _config(given: Sequence[str], size: str | None) -> Config:
    argv = [*given, *(["--model", size] if size else [])]
    options, _ = parse("bench.py", "", argv, _NoActions)
    config = bind(options)
    if config.machine.shard != "none":
        raise UserError(f"--shard {config.machine.shard}: the bench runs in one process; use none")
    return config


def measure(config: Config, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one configuration; return all of its numbers. Raises UserError."""
    # Only now: importing torch takes seconds, and everything a user can mistype is checked.
    from gpt2.machine import device as machine
    from gpt2.optim.precision import resolve_precision
    from scripts.benchmark import contestants as contest
    from scripts.benchmark import sampling

    device = machine.resolve_device(config.machine.device)
    machine.keep_freed_memory(device)  # as train.py does; here the peers profit, too
    precision = resolve_precision(config.optim.precision, device)
    machine.prepare(config.machine, precision, config.train.seed)
    tokens = contest.synthetic_tokens(config, arguments.vocab_size or _usual_vocabulary(config))
    ours = contest.Ours(config, tokens, device, precision)
    sides: list[contest.Side] = [ours]
    try:
        for name in dict.fromkeys(arguments.against):
            sides.append(contest.build_peer(name, config, tokens, ours))
            contest.check_same_loss(ours, sides[-1])
        compiled = {
            side.name: contest.compile_side(side)
            for side in sides
            if contest.wants_compiling(side, config)
        }
        measured = _run(sides, compiled, arguments)
        if arguments.sampling:
            measured["sampling"] = sampling.measure(sides, arguments.sampling, arguments.repeats)
    finally:
        for side in sides:
            side.close()
    return {
        "model": config.model.model,
        "shape": {**_shape(config), "vocabulary": tokens.meta.vocab_size},
        "parameters": ours.model.parameter_count(),
        "precision": precision,
        "compiled": bool(config.machine.compile),
        "steps": arguments.steps,
        "repeats": arguments.repeats,
        "machine": _machine(machine.describe(device), arguments.against),
        **measured,
    }


def _run(
    sides: Sequence[Side], compiled: dict[str, float], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Warm up, time, weigh and profile; the first side is ours."""
    from gpt2.machine.device import device_name
    from gpt2.optim.precision import DTYPES
    from scripts.benchmark import measure as meter
    from scripts.benchmark.contestants import Ours

    ours = sides[0]
    assert isinstance(ours, Ours)
    device, dtype = ours.parts.precision.device, DTYPES[ours.parts.precision.name]
    for side in sides:
        side.run(arguments.warmup)
    limit = meter.MatmulLimit(device, dtype)
    runs = {side.name: side.run for side in sides}
    times = meter.interleaved(runs, arguments.steps, arguments.repeats, device, limit)
    memory = {
        side.name: meter.peak_memory(side, [s for s in sides if s is not side], device)
        for side in sides
    }
    costs = meter.profile(ours, device, arguments.profile) if arguments.profile else None
    tokens = ours.parts.batches.effective_batch * ours.parts.batches.block_size
    matmul = times.pop("matmul")
    parameters = ours.model.parameter_count()
    return {
        "tokens_per_step": tokens,
        "matmul": {
            "size": limit.size,
            **meter.spread(matmul),
            "best": max(matmul),
            "card_peak": meter.known_peak(device_name(device), dtype),
        },
        "sides": {
            name: {
                **meter.summary(values, times["ours"], matmul, parameters, tokens),
                "compile_seconds": compiled.get(name),
                **memory[name],
            }
            for name, values in times.items()
        },
        "profile": costs,
        "sampling": None,
    }


def _shape(config: Config) -> dict[str, Any]:
    return {
        "layers": config.model.n_layer,
        "width": config.model.n_embd,
        "heads": config.model.n_head,
        "block": config.model.block_size,
        "batch": config.train.batch_size,
        "accumulation": config.train.gradient_accumulation,
        "dropout": config.model.dropout,
    }


def _usual_vocabulary(config: Config) -> int:
    characters = config.data.tokenizer == "char" or config.data.dataset.endswith("-char")
    return CHARACTERS if characters else GPT2_VOCABULARY


def _machine(described: dict[str, Any], against: Sequence[str]) -> dict[str, Any]:
    versions = {k: described["versions"][k] for k in ("python", "torch", "cuda", "hip")}
    if any(name.startswith("transformers") for name in against):
        versions["transformers"] = metadata.version("transformers")
    return {
        "device": described["device"],
        "device_name": described["device_name"],
        "cores": os.cpu_count(),
        "threads": described["threads"],
        "commit": described["commit"],
        "versions": {name: version for name, version in versions.items() if version},
    }


if __name__ == "__main__":
    run_entry("bench.py", lambda: main(sys.argv[1:]))
