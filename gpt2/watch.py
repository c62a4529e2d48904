"""The guard of a session's host memory: what it asks for, and the last words when it ends a run."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext, suppress

from gpt2.config.errors import Exit, UserError
from gpt2.config.sizes import show_size
from gpt2.config.typed import MachineConfig
from gpt2.memory import host as memory
from gpt2.training.distributed import Ranks
from gpt2.training.run import RunFolder, now, read_json
from gpt2.training.signals import StopRequest


def check_host(config: MachineConfig) -> memory.Host:
    """Look at the host before anything is built, and let the kernel end this process first.

    Raises UserError, exit 6, when memory is low already; exit 2 for a limit nobody can watch.
    """
    host = memory.Host()
    if host.watched:
        host.offer_to_the_oom_killer()
        memory.refuse_if_low(host)
    elif (limit := config.host_memory_limit) is not None:
        raise UserError(
            f"--host-memory-limit {show_size(limit)} cannot be watched on this system, which has "
            "no /proc/meminfo: leave it at auto"
        )
    return host


def guard(
    host: memory.Host,
    config: MachineConfig,
    folder: RunFolder,
    ranks: Ranks,
    stop: StopRequest,
) -> AbstractContextManager[object]:
    """Return the context in which host memory is watched; low memory is a request to `stop`."""
    if not host.watched:
        if ranks.first:
            print("host memory is not watched: this system has no /proc/meminfo", flush=True)
        return nullcontext()

    def last_words(reason: str) -> None:
        line = (
            f"out of host memory, ended at once: {reason}; the last checkpoint is intact, "
            "a smaller --batch-size with more --gradient-accumulation needs less"
        )
        print(f"train.py: error: {line}", file=sys.stderr, flush=True)
        with suppress(OSError, ValueError, UserError):
            folder.log.write(f"error: {line}\n")
            folder.log.flush()
            record = read_json(folder.path, "run.json")
            if record["status"] == "running":
                ended = {"status": "failed", "exit_code": int(Exit.MEMORY), "end": now()}
                folder.write_json("run.json", {**record, **ended})

    own = memory.budget(config.host_memory_limit, host, ranks.here)
    return memory.Guard(host, own, stop.ask, last_words)
