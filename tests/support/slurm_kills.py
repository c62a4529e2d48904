"""A matrix under a real Slurm, interrupted at random instants until it is done."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from scripts.study.claims import Claims
from scripts.study.folder import MatrixFolder
from scripts.study.journal import read_events
from scripts.study.records import Finished, Started
from scripts.study.slurm.commands import FailedError
from scripts.study.slurm.submission import active
from tests.support import tiny_matrix
from tests.support.repository import REPOSITORY
from tests.support.slurm_cluster import Cluster

MATRIX = str(REPOSITORY / "tests" / "support" / "fake_matrix.py")
#: What is done to a task: cancelled, requeued, killed; or its node's slurmd is.
KINDS = ("scancel", "requeue", "kill", "slurmd")
#: Twelve cells, whose checkpoints are close together.
CELLS = (
    "EVAL_INTERVAL=100",
    "CHECKPOINT_INTERVAL=20",
    'MATRIX_OPTIMIZERS="adamw adamwspam"',
    'MATRIX_PRUNING_METHODS="none magnitude"',
    'MATRIX_SEEDS="1 2 3"',
)
#: Seconds after which a slurmd that was killed is started again; its node is down by then.
_DOWN = 14.0


@dataclass
class Work:
    """A matrix that is submitted to `cluster` again and again until its cells have finished."""

    cluster: Cluster
    config: Path
    out: Path
    more: tuple[str, ...] = ()
    true_cells: bool = False
    submissions: int = 0
    done: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)

    def matrix(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run scripts/matrix.py for it on this machine."""
        command = [sys.executable, MATRIX, "--config", str(self.config), "--out", str(self.out)]
        environment = {**self.cluster.environment, "TRUE_CELLS": "1" if self.true_cells else "0"}
        return subprocess.run(
            [*command, *flags], env=environment, capture_output=True, text=True, timeout=1800,
            check=False, cwd=REPOSITORY,
        )  # fmt: skip

    def submit(self) -> None:
        done = self.matrix("--runner", "slurm", "--array", "4", *self.more)
        self.said.append(done.stdout + done.stderr)
        assert done.returncode == 0, self.said[-1]
        self.submissions += 1

    def interrupted(
        self, kinds: Sequence[str], rng: random.Random, pause: float, limit: float
    ) -> None:
        """Submit, do what `kinds` say one after another, and wait for the end."""
        left, down = list(kinds), dict[str, float]()
        end, again = time.monotonic() + limit, time.monotonic() + rng.uniform(0.3, 1.0) * pause
        self.submit()
        while True:
            assert time.monotonic() < end, f"no end after {limit} s: {self.cluster.folder}"
            for name in [name for name, since in down.items() if time.monotonic() > since + _DOWN]:
                del down[name]
                self.cluster.start_node(name)
            finished = self.finished()
            if self.jobs() == 0:
                if finished:
                    break
                self.submit()
            if (
                left
                and not finished
                and time.monotonic() > again
                and self.disturb(left[0], rng, down)
            ):
                self.done[left.pop(0)] += 1
                again = time.monotonic() + rng.uniform(0.3, 1.0) * pause
            time.sleep(0.5)
        for name in down:
            self.cluster.start_node(name)

    def finished(self) -> bool:
        """Whether all cells have their results."""
        folder = MatrixFolder(self.out)
        return all(folder.finished(cell.name) for cell in folder.matrix().cells)

    def jobs(self) -> int:
        """How many jobs of the matrix Slurm knows of; also one where it gives no answer."""
        os.environ["SLURM_CONF"] = self.cluster.environment["SLURM_CONF"]
        try:
            return len(active(self.out))
        except FailedError:
            return 1

    def disturb(self, kind: str, rng: random.Random, down: dict[str, float]) -> bool:
        """Do one thing to a task at work; False when there is none."""
        held = [claim.owner for claim in Claims(self.out).held().values()]
        running = {job.number: job for job in active(self.out) if job.state == "RUNNING"}
        owners = [one for one in held if one.job in running and one.host not in down]
        if not owners:
            return False
        one = rng.choice(sorted(owners, key=str))
        if kind == "scancel":
            self.cluster.say("scancel", one.job)
        elif kind == "requeue":
            self.cluster.say("scontrol", "requeue", one.job)
        elif kind == "kill":
            with suppress(ProcessLookupError):
                os.kill(one.pid, 9)
        else:
            node = running[one.job].node
            self.cluster.nodes[node].kill()
            self.cluster.nodes[node].wait()
            down[node] = time.monotonic()
        return True

    def wrong(self) -> list[str]:
        """Return what the journal says that must not be: a cell lost, or run again when done."""
        found = []
        events = read_events(self.out)[0]
        for cell in MatrixFolder(self.out).matrix().cells:
            own = [event for event in events if event.cell == cell.name]
            ends = [n for n, event in enumerate(own) if isinstance(event, Finished)]
            if len(ends) != 1:
                found.append(f"{cell.name} finished {len(ends)} times")
            if ends and any(isinstance(event, Started) for event in own[ends[0] :]):
                found.append(f"{cell.name} was begun again after its end")
        held = Claims(self.out).held()
        return [*found, *(f"{cell} is still claimed" for cell in held)]

    def results(self) -> list[dict[str, str]]:
        """Report it; return results.csv without what is measured."""
        command = [sys.executable, "scripts/report.py", "--out", str(self.out)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = tiny_matrix.results(self.out)
        assert found, "no results.csv"
        return found


def torment(
    cluster: Cluster, folder: Path, kinds: Sequence[str], seed: int, pause: float, limit: float
) -> tuple[Work, list[str]]:
    """Interrupt a matrix of true runs, as `kinds` say; return it, and what it differs in."""
    config = folder / "config"
    whole = Work(cluster, config, folder / "whole", true_cells=True)
    done = whole.matrix("--runner", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    work = Work(cluster, config, folder / "out", true_cells=True)
    work.interrupted(kinds, random.Random(seed), pause, limit)
    found = work.wrong()
    if work.results() != whole.results():
        found.append("the results differ from those of a matrix that nothing befell")
    return work, found
