"""Injection points for the fault tests; inactive unless GPT2_FAULT is set.

GPT2_FAULT=point:action[:when] arms one point of POINTS. `when` counts the passes: 3 is only the
third, 3+ the third and all later ones, * all; the default is only the first. The variable is read
once, at the first pass.
"""

from __future__ import annotations

import errno
import functools
import itertools
import math
import os
import re
import signal
import time
from dataclasses import dataclass

from gpt2.config.errors import UserError

#: Every point, and the state of the program there. A test checks that the code has these.
POINTS = {
    "run.open": "the folder of a run is about to be opened",
    "run.write": "a small file of a run (run.json, summary.json) is about to be written",
    "metrics.write": "a line of metrics.jsonl is about to be written",
    "metrics.sync": "metrics.jsonl is about to be brought to the disk",
    "log.write": "a line of log.txt is about to be written",
    "checkpoint.tensor": "a tensor of a checkpoint is about to be written",
    "checkpoint.sync": "a file of tensors is written, and about to be brought to the disk",
    "checkpoint.manifest": "all files of a checkpoint but its manifest are written",
    "checkpoint.rename": "a checkpoint is whole under its temporary name",
    "checkpoint.purge": "a checkpoint has its name, the older ones are still there",
    "step.loss": "the loss of a step is about to be computed; multiplied before its gradients are",
    "step.grad": "the gradients of a step are there, yet scaled where the precision scales them",
    "step.begin": "a step of training begins",
    "evaluation.test": "the test split is measured, validation and test together are not yet",
    "data.batch": "a micro-batch is about to be read, perhaps ahead by a thread",
    "data.write": "a piece of a shard is about to be written",
    "data.journal": "a line of the journal of a preparation is about to be written",
    "data.complete": "the shards of a split are written",
    "data.rename": "the files of a corpus take their names",
    "data.meta": "only meta.json is missing",
}
#: Seconds that `hang` sleeps: longer than any limit of a test.
_FOR_EVER = 3600.0


@dataclass(frozen=True)
class _Plan:
    """The value of GPT2_FAULT; passes `first` to `last` act."""

    name: str
    action: str
    first: int
    last: float


_hits = itertools.count(1)


def failpoint(name: str) -> None:
    """Pass the injection point `name`: does nothing unless GPT2_FAULT arms it.

    kill ends the process, term asks it to stop, hang sleeps, oom is an out-of-memory error; enospc,
    erofs and eio are the errors of a full, read-only or broken disk.
    """
    plan = _due(name)
    if plan is None:
        return
    if plan.action in ("kill", "term"):
        os.kill(os.getpid(), signal.SIGKILL if plan.action == "kill" else signal.SIGTERM)
    elif plan.action == "hang":
        time.sleep(_FOR_EVER)
    elif plan.action == "oom":
        raise MemoryError("GPT2_FAULT")
    elif plan.action in ("enospc", "erofs", "eio"):
        number = getattr(errno, plan.action.upper())
        raise OSError(number, os.strerror(number))
    else:
        raise UserError(f"GPT2_FAULT: {name} is a place, and {plan.action!r} changes a number")


def factor(name: str) -> float:
    """Pass the injection point `name` of a number; return the factor on it.

    1 unless GPT2_FAULT arms it: nan and inf give that, x20 gives 20.
    """
    plan = _due(name)
    if plan is None:
        return 1.0
    if plan.action in ("nan", "inf"):
        return float(plan.action)
    if plan.action.startswith("x"):
        return float(plan.action[1:])
    raise UserError(f"GPT2_FAULT: {name} is a number, which {plan.action!r} cannot change")


@functools.cache
def _armed() -> _Plan | None:
    text = os.environ.get("GPT2_FAULT", "")
    if not text:
        return None
    actions = r"kill|term|hang|oom|enospc|erofs|eio|nan|inf|x[0-9]+"
    found = re.fullmatch(rf"([a-z_.]+):({actions})(?::([1-9][0-9]*)(\+?)|:(\*))?", text)
    if not found or found[1] not in POINTS:
        raise UserError(
            f"GPT2_FAULT={text}: write it as point:action[:when], see gpt2/config/faults.py; "
            f"points are {', '.join(POINTS)}"
        )
    first = int(found[3] or 1)
    return _Plan(found[1], found[2], first, math.inf if found[4] or found[5] else first)


def _due(name: str) -> _Plan | None:
    """Return the plan if it applies to this pass of `name`."""
    plan = _armed()
    if plan is None or plan.name != name or not plan.first <= next(_hits) <= plan.last:
        return None
    return plan
