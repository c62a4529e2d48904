"""Kills and damage without end, more than a test may take: make torture ARGS="--seed 7".

It prints what was done and what was found; the exit code is 1 where anything was. A seed gives the
same damage again, and the same draws of instants.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support import (
    fuzzing,
    kills,
    runner_kills,
    slurm_cluster,
    slurm_kills,
    tiny,
    tiny_matrix,
)

Found = tuple[int, list[str]]


def training(folder: Path, seed: int, count: int) -> Found:
    """Kill trainings until there were `count` kills; what differs from an undisturbed one."""
    data, more = kills.prepared(folder / "data"), kills.HARD
    whole = folder / "whole" / "run"
    seconds = kills.quietly_trained(data, whole, more)
    rng, done, found, number = random.Random(seed), 0, list[str](), 0
    while done < count:
        run = folder / f"killed-{number}" / "run"
        ended = kills.trained_and_killed(data, run, more, rng, count - done, seconds)
        done, number = done + ended.total(), number + 1
        found += [f"training {number}: {what}" for what in kills.differences(whole, run)]
    return done, found


CELLS = (
    "MAX_STEPS=200",
    "EVAL_INTERVAL=50",
    "CHECKPOINT_INTERVAL=10",
    "ASYNC_CHECKPOINT=y",
    'MATRIX_OPTIMIZERS="adamw"',
    'MATRIX_PRUNING_METHODS="none magnitude state"',
    'MATRIX_SEEDS="1 2"',
)


def matrix(folder: Path, seed: int, count: int) -> Found:
    """Kill the runner of a whole matrix of true cells, or a cell; what its results differ in."""
    config = folder / "config"
    config.write_text(tiny_matrix.config(tiny.make_data(folder / "data"), *CELLS))

    def command(out: Path) -> list[str]:
        return [sys.executable, "scripts/matrix.py", "--config", str(config), "--out", str(out)]

    whole = folder / "whole"
    with (folder / "log").open("w") as log:
        subprocess.run(command(whole), stdout=log, stderr=log, check=True, cwd=tiny.REPOSITORY)
    rng, done, found, number = random.Random(seed), 0, list[str](), 0
    while done < count:
        out, killed, number = folder / f"killed-{number}", Counter[str](), number + 1
        code: int | None = None
        starts = 0
        while code != 0:
            starts += 1
            if starts > 2 * count + 20:
                found.append(f"matrix {number}: no end after {starts} starts")
                break
            # Longer than a cell takes to start, or none would ever come to its first step.
            code = runner_kills.one_runner(rng, command(out), out, killed, count - done, pause=9.0)
            if code not in (0, 1, 75, -9, -15):
                found.append(f"matrix {number}: exit code {code}")
                break
        done += killed.total() - killed["nobody"]
        if tiny_matrix.results(out) != tiny_matrix.results(whole):
            found.append(f"matrix {number}: other results after {dict(killed)}")
    return done, found


def files(folder: Path, seed: int, count: int) -> Found:
    """Give damaged files to every reader, `count` times each."""
    tries, found = 0, list[str]()
    for target in fuzzing.targets(folder):
        found += map(str, fuzzing.fuzz(target, seed, count, folder / "work"))
        tries += count
    return tries, found


def configs(folder: Path, seed: int, count: int) -> Found:
    """Give random .config files to every tool."""
    return count, list(map(str, fuzzing.fuzz_configs(seed, count, folder)))


def flags(folder: Path, seed: int, count: int) -> Found:
    """Give random flags to every program."""
    return count, list(map(str, fuzzing.fuzz_flags(seed, count, folder)))


def slurm(folder: Path, seed: int, count: int) -> Found:
    """Cancel, requeue and kill tasks of a matrix under a real Slurm, and the slurmd of a node."""
    if why := slurm_cluster.missing():
        return 0, [f"slurm: {why}"]
    tiny.make_data(folder / "data")
    config = tiny_matrix.config(folder / "data", "MAX_STEPS=2000", *slurm_kills.CELLS)
    (folder / "config").write_text(config)
    rng = random.Random(seed)
    kinds = [rng.choice(slurm_kills.KINDS) for _ in range(count)]
    with slurm_cluster.cluster(folder / "cluster") as cluster:
        work, wrong = slurm_kills.torment(cluster, folder, kinds, seed, 12.0, 60.0 * count)
    return work.done.total(), [f"slurm: {what}" for what in wrong]


PARTS: dict[str, tuple[Callable[[Path, int, int], Found], int, str]] = {
    "training": (training, 40, "kills of a training"),
    "matrix": (matrix, 30, "kills of a matrix or a cell"),
    "slurm": (slurm, 30, "interruptions under Slurm"),
    "files": (files, 60, "damaged files"),
    "configs": (configs, 150, "random .config files"),
    "flags": (flags, 400, "random command lines for each program"),
}


def main() -> int:
    """Do all parts, or those that are named; return 1 where something was found."""
    parser = argparse.ArgumentParser(prog="torture.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=None, help="(default: a new one, printed)")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part")
    parser.add_argument("--times", type=float, default=1.0, help="so many times as much")
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
    warnings.simplefilter("ignore")
    print(f"seed {seed}\n{'what':<42}{'how many':>9}{'seconds':>9}{'found':>7}", flush=True)
    every: list[str] = []
    parts = [name for name in PARTS if name != "slurm" or not slurm_cluster.missing()]
    for name in asked.part or parts:
        part, count, what = PARTS[name]
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as quiet:
            # What the programs say to damage is of no interest; what escapes them is.
            quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
            quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
            done, found = part(Path(folder), seed, max(1, round(asked.times * count)))
        took = time.monotonic() - start
        print(f"{what:<42}{done:>9,}{took:>9.0f}{len(found):>7}", flush=True)
        every += found
    print(*every, sep="\n")
    return 1 if every else 0


if __name__ == "__main__":
    sys.exit(main())
