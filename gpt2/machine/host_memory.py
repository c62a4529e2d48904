"""Host memory: how much there is, how much this process holds, and a guard.

It reads the kernel's files (proc(5), and the kernel's cgroup-v1 and cgroup-v2 documents); without
them nothing is watched. All numbers are bytes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from gpt2.config.errors import Exit, UserError
from gpt2.config.sizes import show_size
from gpt2.machine.process_end import end_process

if TYPE_CHECKING:  # doctor.py must start on older Pythons, too
    from typing import Self

#: Root of the kernel's files.
ROOT = Path("/")
#: Seconds between two checks of the guard; a tenth of it when less than NEAR floors are left.
INTERVAL = 2.0
NEAR = 4
#: Share of all memory that a run may hold when --host-memory-limit is auto.
AUTO_SHARE = 0.8
#: A run above this multiple of its limit ends at once: 0.9 of all memory under auto.
HARD = 9 / 8
#: Makes the kernel kill the run first when memory is exhausted, not a desktop.
OOM_SCORE = 500

#: Seconds for the last words.
_PATIENCE = 2.0
_GIB = 2**30
_OWN = "proc/self/status"


@dataclass(frozen=True)
class HostMemory:
    """A pool of memory: the machine's, or a control group's."""

    name: str
    total: int
    available: int

    @property
    def floor(self) -> int:
        """Return the bytes that must stay available: 1 to 4 GiB, a twentieth of large pools.

        Pools below 10 GiB keep a tenth: small machines train, too.
        """
        return min(4 * _GIB, max(min(_GIB, self.total // 10), self.total // 20))

    def __str__(self) -> str:
        return f"{show_size(self.available)} of {show_size(self.total)} are left {self.name}"


@dataclass(frozen=True)
class Budget:
    """Bytes of anonymous memory that this process may hold, and the source of the number."""

    bytes: int
    why: str


class Host:
    """This machine, as the kernel's files below `root` describe it."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = ROOT if root is None else root
        self._groups = list(_control_groups(self._root))

    @property
    def watched(self) -> bool:
        """Return whether this system reports its memory, and each process's share: Linux does."""
        return "MemAvailable" in self._table("proc/meminfo") and "RssAnon" in self._table(_OWN)

    def pools(self) -> list[HostMemory]:
        """Return the machine's memory, and that of every control group with a limit."""
        memory = self._table("proc/meminfo")
        machine = HostMemory("on this machine", memory["MemTotal"], memory["MemAvailable"])
        groups = [group.pool() for group in self._groups]
        # Without a limit, cgroup v1 reports a number larger than any machine.
        return [machine, *(pool for pool in groups if pool and pool.total < machine.total)]

    def total(self) -> int:
        """Return the smallest limit: of the machine, or of a control group."""
        return min(pool.total for pool in self.pools())

    def available(self) -> int:
        """Return how much the process can still allocate without swapping."""
        return min(pool.available for pool in self.pools())

    def held(self) -> int:
        """Return this process's anonymous memory, with swapped pages, without files."""
        own = self._table(_OWN)
        return own["RssAnon"] + own.get("VmSwap", 0)

    def offer_to_the_oom_killer(self) -> None:
        """Raise this process's oom_score_adj to OOM_SCORE; a higher one stays."""
        path = self._root / "proc/self/oom_score_adj"
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it
            if int(path.read_text()) < OOM_SCORE:
                path.write_text(f"{OOM_SCORE}\n")

    def _table(self, name: str) -> dict[str, int]:
        """Read lines of `name: number kB` as bytes; empty without the file."""
        try:
            lines = (self._root / name).read_text().splitlines()
        except OSError:
            return {}
        words = [line.replace(":", " ").split() for line in lines]
        return {w[0]: int(w[1]) * 1024 for w in words if len(w) == 3 and w[2] == "kB"}


@dataclass(frozen=True)
class _Group:
    """The memory files of one control group: cgroup v2 where `v2`, else v1."""

    folder: Path
    v2: bool

    def pool(self) -> HostMemory | None:
        """Return limit and room, counting cached files as room; None without a limit."""
        names = ("memory.max", "memory.high") if self.v2 else ("memory.limit_in_bytes",)
        limits = [limit for name in names if (limit := self._number(name)) is not None]
        used = self._number("memory.current" if self.v2 else "memory.usage_in_bytes")
        if not limits or used is None:
            return None
        stem = "" if self.v2 else "total_"
        kept = (f"{stem}inactive_file", f"{stem}active_file")
        cached = sum(size for name, size in self._statistics() if name in kept)
        limit = min(limits)
        return HostMemory("in its control group", limit, limit - max(0, used - cached))

    def _number(self, name: str) -> int | None:
        try:
            text = (self.folder / name).read_text().strip()
        except OSError:
            return None
        return int(text) if text.isdecimal() else None  # "max" is no limit

    def _statistics(self) -> Iterator[tuple[str, int]]:
        try:
            lines = (self.folder / "memory.stat").read_text().splitlines()
        except OSError:
            return
        for name, _, value in (line.partition(" ") for line in lines):
            yield name, int(value)


def _control_groups(root: Path) -> Iterator[_Group]:
    """Yield this process's control groups, each up to its root: any may have a limit."""
    try:
        entries = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    for entry in entries:
        _, controllers, path = entry.split(":", 2)
        v2 = not controllers
        if not v2 and "memory" not in controllers.split(","):
            continue
        for line in mounts:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            if kind != ("cgroup2" if v2 else "cgroup"):
                continue
            if not v2 and "memory" not in options.split(","):
                continue
            base, point = (PurePosixPath(word) for word in left.split(" ")[3:5])
            # In a container that shares the host's namespace, the mount shows only a part.
            inside = PurePosixPath(path)
            inner = inside.relative_to(base) if inside.is_relative_to(base) else PurePosixPath()
            top = root / point.relative_to("/")
            parts = () if ".." in inner.parts else inner.parts
            for depth in range(len(parts), -1, -1):
                yield _Group(top.joinpath(*parts[:depth]), v2)


def budget(limit: int | None, host: Host, processes: int = 1) -> Budget:
    """Return what each of `processes` of the run on this machine may hold.

    `limit` is --host-memory-limit in bytes, None for auto.
    """
    if limit is not None:
        total, why = limit, f"--host-memory-limit {show_size(limit)}"
    else:
        total = int(AUTO_SHARE * host.total())
        why = f"{AUTO_SHARE:.0%} of {show_size(host.total())}"
    if processes > 1:
        why += f", shared by {processes} processes"
    return Budget(total // processes, why)


def refuse_if_low(host: Host) -> None:
    """Raise UserError, exit 6, if host memory is low before the start."""
    for pool in host.pools():
        if pool.available < pool.floor:
            raise UserError(
                f"host memory is low before the start: {pool}, and {show_size(pool.floor)} must "
                "stay free: end other programs, or raise the container's limit",
                code=Exit.MEMORY,
            )


class Guard:
    """Thread that watches host memory while the context is open.

    When memory is low, or the process is above `own`, it calls `ask` once with the reason: the run
    saves and exits. At half of what must stay free, or HARD times the budget, it is too late to
    ask: it writes all stacks to stderr, gives `last_words` the reason and two seconds, and ends the
    process with code 6.
    """

    def __init__(
        self,
        host: Host,
        own: Budget,
        ask: Callable[[str], None],
        last_words: Callable[[str], None],
        interval: float | None = None,
    ) -> None:
        self._host, self._own = host, own
        self._ask, self._last_words = ask, last_words
        self._interval = INTERVAL if interval is None else interval
        self._asked = False
        self._near = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory guard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def look(self) -> None:
        """Check once, and act on it."""
        pools, held = self._host.pools(), self._host.held()
        for pool in pools:
            if pool.available < pool.floor // 2:
                self._end(str(pool))
        beyond = f"it holds {show_size(held)}, above {show_size(self._own.bytes)} ({self._own.why})"
        if held > HARD * self._own.bytes:
            self._end(beyond)
        low = [str(pool) for pool in pools if pool.available < pool.floor]
        low += [beyond] if held > self._own.bytes else []
        if low and not self._asked:
            self._asked = True
            self._ask(low[0])
        self._near = any(pool.available < NEAR * pool.floor for pool in pools)

    def _watch(self) -> None:
        while not self._over.wait(self._interval / 10 if self._near else self._interval):
            with contextlib.suppress(KeyError):  # a file that cannot be opened can be at the next
                self.look()

    def _end(self, reason: str) -> None:
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        # A disk can be slow to write a line now, and every moment costs memory.
        end_process(Exit.MEMORY, lambda: self._last_words(reason), _PATIENCE)
