"""Measure speed and memory of training, alternating with peers in one process; print tables.

Flags after -- are flags of train.py. The data are random tokens, so nothing needs preparing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("bench.py")

from gpt2.config.actions import NoActions
from gpt2.config.bind import bind
from gpt2.config.cli import Parser, parse, split_at_dashes
from gpt2.config.entry import run_entry
from gpt2.config.errors import UserError
from gpt2.config.schema import REPOSITORY
from gpt2.config.typed import Config
from gpt2.machine import processor
from scripts import flags
from scripts.benchmark.tables import tables
from scripts.benchmark.vocabulary import usual_vocabulary
from scripts.kconfig.start import fitting_defconfig


def main(argv: Sequence[str]) -> int:
    """Run the measurements of `argv`; print the tables.

    Raises UserError.
    """
    own, more = split_at_dashes(argv)
    arguments = parser().parse_args(own)
    given = [*(flags_of(arguments.config) if arguments.config else []), *more]
    for path in (arguments.json, arguments.profile):
        if path is not None and not path.resolve().parent.is_dir():
            raise UserError(f"{path}: there is no folder {path.parent} to write it to")
    if arguments.roofline:
        if arguments.config:
            raise UserError("--roofline is of all GPU defconfigs: leave --config out")
        from scripts.benchmark import roofline

        print(roofline.main(more))
        return 0
    if arguments.sparse:
        from scripts.benchmark import sparse as bench_sparse

        bench_sparse.main(arguments, parser().parse_args([]), more)
        return 0
    if arguments.pruning:
        from scripts.benchmark import pruning as bench_pruning

        flags_for = ["--pruning-interval", str(bench_pruning.INTERVAL), "--pruning-method"]
        pruned = {name: configured([*given, *flags_for, name], None) for name in arguments.pruning}
        vocabulary = arguments.vocab_size or usual_vocabulary(next(iter(pruned.values())))
        bench_pruning.main(arguments, pruned, vocabulary)
        return 0
    configs = [configured(given, size) for size in arguments.sizes or [None]]
    if arguments.memory:
        from scripts.benchmark import memory as bench_memory

        bench_memory.main(arguments, configs, arguments.vocab_size)
        return 0
    if arguments.profile and len(configs) > 1:
        raise UserError("--profile writes one trace: give one size with it")
    # Imported this late because torch takes seconds: every option is checked before.
    from scripts.benchmark import training

    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": processor.load(),  # before this program adds to it: other work here
        "results": [training.measure(config, arguments) for config in configs],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(tables(report))
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the flags before the --."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    found = Parser(
        prog="bench.py", description=first, epilog=rest, usage="bench.py [...] [-- FLAG ...]"
    )
    add = found.add_argument
    add("--config", metavar="FILE", help="a .config, or the name of a defconfig, to start from")
    peers = "plain (a bare PyTorch loop), nanogpt (with fused AdamW), transformers; or -compiled"
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
    memory = "measure the peak memory of training instead, beside the plan; kept for later plans"
    add("--memory", action="store_true", help=memory)
    roofline = "predict the speed of the GPU defconfigs on known cards instead; needs no card"
    add("--roofline", action="store_true", help=roofline)
    add("--profile", metavar="FILE", type=Path, help="write a Chrome trace, name the top costs")
    add("--json", metavar="FILE", type=Path, help="write all numbers to this file as well")
    return found


def _peer(text: str) -> str:
    # Written out here, because importing them loads torch.
    names = ("plain", "transformers", "nanogpt")
    peers = tuple(name + form for name in names for form in ("", "-compiled"))
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


def flags_of(name: str) -> list[str]:
    """Return the flags of a .config, or of the defconfig `name`.

    If the repository's .config is missing, use the defconfig that fits the machine. Raises
    UserError.
    """
    path = Path(name)
    if not path.exists():
        if path.resolve() == REPOSITORY / ".config":
            path = fitting_defconfig()
        elif (REPOSITORY / "defconfigs" / name).is_file():
            path = REPOSITORY / "defconfigs" / name
        else:
            raise UserError(f"--config {name}: no such file or defconfig")
    return flags.flags(path)


def configured(given: Sequence[str], size: str | None) -> Config:
    """Return the configuration of flags of train.py, with another `size`.

    Raises UserError.
    """
    argv = [*given, *(["--model", size] if size else [])]
    options, _ = parse("bench.py", "", argv, NoActions)
    config = bind(options)
    if config.machine.shard != "none":
        raise UserError(f"--shard {config.machine.shard}: the bench runs in one process; use none")
    return config


if __name__ == "__main__":
    run_entry("bench.py", lambda: main(sys.argv[1:]))
