"""Check that all ranks agree: hosts may differ in their data, program and options."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import socket

import torch

from gpt2.config.code_hash import code_hash
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import Config
from gpt2.machine.ranks import DistributedContext

_DATA = "data"
#: What can differ between hosts, and the remedy. Hashes are shown by their first digits.
_WAYS = {
    _DATA: "prepare the data once, and copy their folder to every node (or name it: --data-dir)",
    "gpt2/": "install the same version of this program on every node",
    "torch": "install the packages of requirements.txt on every node",
    "Python": "use the same Python on every node",
    "options": "start every node with the same .config and flags",
}


def refuse_no_data(ranks: DistributedContext, problem: UserError | None) -> None:
    """Raise the `problem` that a rank had with its data, on all ranks, naming its host."""
    told = ranks.gather((socket.gethostname(), problem and problem.messages))
    for host, messages in told:
        if messages:
            where = f"on host {host}: " if len({name for name, _ in told}) > 1 else ""
            code = problem.code if problem else Exit.DATA
            raise UserError(*(f"{where}{text}" for text in messages), code=code)


def refuse_unlike(ranks: DistributedContext, config: Config, data_hash: str) -> None:
    """Raise UserError where a rank has other data, code or options than the first.

    One line for each host and difference.
    """
    if ranks.world_size == 1:
        return
    own = {
        _DATA: data_hash,
        "gpt2/": code_hash(),
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "options": _digest(config),
    }
    told = ranks.gather((socket.gethostname(), own))
    first_host, first = told[0]
    problems = dict.fromkeys(  # each host once
        f"host {host} has {_named(what, values)}, "
        f"and host {first_host} {_named(what, first)}: {way}"
        for host, values in told
        for what, way in _WAYS.items()
        if values[what] != first[what]
    )
    if problems:
        data = any(values[_DATA] != first[_DATA] for _, values in told)
        raise UserError(*problems, code=Exit.DATA if data else Exit.CONFIG)


def _named(what: str, values: dict[str, str]) -> str:
    hashed = what in (_DATA, "gpt2/", "options")
    return f"{what} of hash {values[what][:12]}" if hashed else f"{what} {values[what]}"


def _digest(config: Config) -> str:
    """Return a hash of the options that all ranks must share; paths are left out."""
    model = dataclasses.replace(config.model, init_from=None)
    machine = config.machine
    alike = (model, config.optim, config.prune, config.train, machine.shard, machine.compile)
    return hashlib.sha256(repr(alike).encode()).hexdigest()
