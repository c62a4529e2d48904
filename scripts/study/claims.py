"""Which task of a cluster runs which cell: a file for each claim, created atomically.

claims/CELL.N       the N-th claim of a cell: who made it; its modification time is a heartbeat
claims/CELL.N.free  it was given back

The claim with the largest N counts. To take over a cell, a task creates N + 1, which only one can
do; so claims are never removed. Process ids of other machines are not checked: Slurm reports
whether a silent task's job is gone, and if it cannot be asked, a long silence decides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpt2.config.errors import UserError
from gpt2.config.records import Record, to_json
from gpt2.files.atomic import create_file
from gpt2.files.json import read_record

FOLDER = "claims"
#: Seconds between two heartbeats, and of silence after which an owner is checked.
BEAT, SILENT = 15.0, 60.0
#: Seconds of silence after which an owner counts as gone if nothing else is known.
LOST = 300.0


@dataclass(frozen=True, kw_only=True)
class Owner(Record):
    """The maker of a claim. job: of Slurm, as squeue lists it; life: the number of its requeues."""

    host: str
    job: str = ""
    life: int = 0
    pid: int = 0

    def __str__(self) -> str:
        job = f"job {self.job} on " if self.job else ""
        return f"{job}{self.host}"


#: Returns whether the job of an owner is gone; None where unknown.
Gone = Callable[[Owner], bool | None]


def _cannot_tell(_: Owner) -> bool | None:
    return None


@dataclass(frozen=True)
class Claim:
    """The latest claim of a cell, number `number`; `free`: it was given back."""

    cell: str
    number: int
    free: bool
    path: Path

    @property
    def owner(self) -> Owner:
        """Return its maker; an unknown host while the file is incomplete, or if it is damaged."""
        try:
            return read_record(self.path, Owner, "")
        except (OSError, UserError):
            return Owner(host="an unknown machine")

    @property
    def beat(self) -> float:
        """Return the time of its last heartbeat, read anew from the file system."""
        with self.path.open("rb") as file:  # opening makes NFS look again
            return os.fstat(file.fileno()).st_mtime


class Claims:
    """The claims in the folder of a matrix, as `me` makes and sees them."""

    def __init__(self, folder: Path, me: Owner | None = None, gone: Gone = _cannot_tell) -> None:
        self._path, self._me, self._gone = folder / FOLDER, me, gone
        self._mine: dict[str, Claim] = {}

    @property
    def there(self) -> bool:
        """Return whether a cell was ever claimed here."""
        return self._path.is_dir()

    def latest(self) -> dict[str, Claim]:
        """Return the latest claim of every cell."""
        found: dict[str, int] = {}
        free: set[tuple[str, int]] = set()
        for name in self._names():
            stem = name.removesuffix(".free")
            cell, _, digits = stem.rpartition(".")
            if not digits.isdecimal():
                continue
            number = int(digits)
            if stem != name:
                free.add((cell, number))
            found[cell] = max(number, found.get(cell, 0))
        return {
            cell: Claim(cell, number, (cell, number) in free, self._path / f"{cell}.{number}")
            for cell, number in found.items()
        }

    def _names(self) -> Iterator[str]:
        with suppress(FileNotFoundError):
            yield from (name for name in os.listdir(self._path) if not name.startswith(".tmp-"))

    def held(self) -> dict[str, Claim]:
        """Return the valid claims: not given back, and of an owner that is not gone."""
        claims = {cell: claim for cell, claim in self.latest().items() if not claim.free}
        now = self._now() if claims else 0.0
        return {cell: claim for cell, claim in claims.items() if not self._stale(claim, now)}

    def _stale(self, claim: Claim, now: float) -> bool:
        silence = now - claim.beat
        if silence < SILENT or claim.cell in self._mine:
            return False
        gone = self._gone(claim.owner)
        return silence >= LOST if gone is None else gone

    def _now(self) -> float:
        """Return the time by the clock of the heartbeats, if the folder can be written."""
        clock = self._path / f".clock-{self._me.host if self._me else os.uname().nodename}"
        try:
            with clock.open("w") as file:
                os.utime(clock)
                return os.fstat(file.fileno()).st_mtime
        except OSError:  # a reader without write permission
            return max((claim.beat for claim in self.latest().values()), default=0.0)

    def take(self, cell: str) -> bool:
        """Claim a cell; return whether that succeeded.

        Raises OSError.
        """
        assert self._me is not None, "who only looks on claims nothing"
        before = self.latest().get(cell)
        if before and not before.free and not self._stale(before, self._now()):
            return False
        number = before.number + 1 if before else 1
        path = self._path / f"{cell}.{number}"
        self._path.mkdir(exist_ok=True)
        if not create_file(path, json.dumps(to_json(self._me)) + "\n"):
            return False
        self._mine[cell] = Claim(cell, number, False, path)
        return True

    def release(self, cell: str) -> None:
        """Give a claim of ours back."""
        claim = self._mine.pop(cell)
        claim.path.with_name(f"{claim.path.name}.free").touch()

    def beat(self) -> list[str]:
        """Renew our claims; return the cells that others have taken over.

        That happens after a silence: the machine was suspended, or lost the file system.
        """
        lost = []
        for cell, claim in list(self._mine.items()):
            if claim.path.with_name(f"{cell}.{claim.number + 1}").exists():
                del self._mine[cell]
                lost.append(cell)
            else:
                with suppress(OSError):  # a short outage of the file system ends no cell
                    os.utime(claim.path)
        return lost
