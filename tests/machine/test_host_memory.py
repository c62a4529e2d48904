"""What the host's memory is, by the kernel's files, and the guard over it."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.machine import host_memory
from gpt2.machine.host_memory import (
    Budget,
    Guard,
    Host,
    HostMemory,
    budget,
    refuse_if_low,
)
from tests.conftest import REPOSITORY, RunScript

GIB = 2**30
V2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
CPU = "36 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def fake(
    root: Path, total: int = 24 * GIB, available: int = 12 * GIB, held: int = GIB, swapped: int = 0
) -> Path:
    """Write what a kernel shows of a machine without control groups."""
    memory = {"MemTotal": total, "MemFree": available // 2, "MemAvailable": available}
    lines = [f"{name}:{size // 1024:>12} kB\n" for name, size in memory.items()]
    write(root, "proc/meminfo", "".join(lines) + "HugePages_Total:       0\n")
    status = f"Name:\tpython\nRssAnon:\t{held // 1024} kB\nVmSwap:\t{swapped // 1024} kB\n"
    write(root, "proc/self/status", status)
    write(root, "proc/self/oom_score_adj", "0\n")
    return root


def group(root: Path, folder: str, **files: str) -> None:
    for name, text in files.items():
        write(root, f"sys/fs/cgroup/{folder}/{name.replace('__', '.')}", text + "\n")


def test_the_machine_alone(tmp_path: Path) -> None:
    machine = Host(fake(tmp_path, held=3 * GIB, swapped=GIB))
    assert machine.watched
    assert machine.pools() == [HostMemory("on this machine", 24 * GIB, 12 * GIB)]
    assert (machine.total(), machine.available(), machine.held()) == (24 * GIB, 12 * GIB, 4 * GIB)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_agrees_with_itself() -> None:
    here, before = Host(), Host().held()
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert here.total() <= int(memory["MemTotal"].split()[0]) * 1024
    assert 0 < here.available() <= here.total()
    with mmap.mmap(-1, 64 * 2**20, flags=mmap.MAP_PRIVATE) as ballast:  # no heap has it already
        for _ in range(64):
            ballast.write(b"x" * 2**20)
        assert 60 * 2**20 < here.held() - before < 80 * 2**20


def test_the_smallest_limit_up_to_the_root_holds(tmp_path: Path) -> None:
    write(fake(tmp_path), "proc/self/cgroup", "0::/user.slice/job.scope\n")
    write(tmp_path, "proc/self/mountinfo", V2)
    mib = {"memory__max": "max", "memory__high": "max", "memory__current": str(GIB)}
    group(tmp_path, "user.slice/job.scope", **mib)
    group(tmp_path, "user.slice", memory__max=str(4 * GIB), memory__current=str(3 * GIB))
    statistics = f"anon {2 * GIB}\ninactive_file {GIB // 2}\nactive_file {GIB // 4}"
    group(tmp_path, "user.slice", memory__high="max", memory__stat=statistics)
    machine = Host(tmp_path)
    # Of the 3 GiB in use, 0.75 are cached files, which go when room is needed.
    expected = HostMemory("in its control group", 4 * GIB, 4 * GIB - (3 * GIB - 3 * GIB // 4))
    assert machine.pools()[1:] == [expected]
    assert machine.total() == 4 * GIB
    group(tmp_path, "user.slice/job.scope", memory__high=str(2 * GIB))
    assert machine.total() == 2 * GIB
    assert machine.available() == GIB


def test_cgroup_v1(tmp_path: Path) -> None:
    own = "5:cpu:/\n4:memory:/docker/abc\n0::/docker/abc\n"
    write(fake(tmp_path), "proc/self/cgroup", own)
    write(tmp_path, "proc/self/mountinfo", CPU + V1)
    none = {"memory__limit_in_bytes": "9223372036854771712", "memory__usage_in_bytes": str(GIB)}
    group(tmp_path, "memory", **none)
    group(tmp_path, "memory/docker/abc", **none)
    assert len(Host(tmp_path).pools()) == 1
    statistics = f"cache 9\ntotal_inactive_file {GIB}\ninactive_file 7"
    group(
        tmp_path, "memory/docker/abc", memory__limit_in_bytes=str(3 * GIB),
        memory__usage_in_bytes=str(2 * GIB), memory__stat=statistics,
    )  # fmt: skip
    assert Host(tmp_path).pools()[1:] == [HostMemory("in its control group", 3 * GIB, 2 * GIB)]


@pytest.mark.parametrize("path", ["/docker/abc", "/../other", "/"])
def test_a_container_that_sees_only_its_own_part(path: str, tmp_path: Path) -> None:
    write(fake(tmp_path), "proc/self/cgroup", f"0::{path}\n")
    write(tmp_path, "proc/self/mountinfo", V2.replace(" / /sys", " /docker/abc /sys"))
    group(tmp_path, ".", memory__max=str(2 * GIB), memory__current=str(GIB))
    assert Host(tmp_path).total() == 2 * GIB


@pytest.mark.parametrize(
    ("total", "floor"),
    [(GIB, GIB // 10), (8 * GIB, 8 * GIB // 10), (10 * GIB, GIB), (16 * GIB, GIB),
     (40 * GIB, 2 * GIB), (1024 * GIB, 4 * GIB)],
)  # fmt: skip
def test_what_stays_free(total: int, floor: int) -> None:
    assert HostMemory("", total, 0).floor == floor


def test_the_budget(tmp_path: Path) -> None:
    machine = Host(fake(tmp_path))
    assert budget(None, machine).bytes == int(0.8 * 24 * GIB)
    assert budget(6 * GIB, machine).bytes == 6 * GIB
    shared = budget(6 * GIB, machine, processes=2)
    assert shared == Budget(3 * GIB, "--host-memory-limit 6.44 GB, shared by 2 processes")


def test_low_at_the_start(tmp_path: Path) -> None:
    refuse_if_low(Host(fake(tmp_path, available=2 * GIB)))
    with pytest.raises(UserError, match=r"1\.07 GB of 25\.77 GB are left on this machine") as error:
        refuse_if_low(Host(fake(tmp_path, available=GIB)))
    assert error.value.code == Exit.MEMORY


class EndedError(Exception):
    pass


class Watching:
    """A guard over a faked machine that notes what it does."""

    def __init__(self, root: Path, own: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.said: list[str] = []

        def leave(code: int) -> None:
            raise EndedError(code)

        monkeypatch.setattr(os, "_exit", leave)
        self.guard = Guard(Host(root), Budget(own, "a test"), self.asked.append, self.said.append)


def test_plenty_is_no_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watching = Watching(fake(tmp_path), 2 * GIB, monkeypatch)
    watching.guard.look()
    assert (watching.asked, watching.said) == ([], [])


def test_low_memory_asks_once_and_ends_at_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    watching = Watching(fake(tmp_path), 2 * GIB, monkeypatch)
    fake(tmp_path, available=GIB)
    watching.guard.look()
    watching.guard.look()
    assert watching.asked == ["1.07 GB of 25.77 GB are left on this machine"]
    fake(tmp_path, available=GIB // 2)
    with pytest.raises(EndedError, match="6"):
        watching.guard.look()
    assert watching.said == ["537 MB of 25.77 GB are left on this machine"]
    assert "in look" in capfd.readouterr().err  # the stacks


def test_a_run_above_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watching = Watching(fake(tmp_path), 2 * GIB, monkeypatch)
    fake(tmp_path, held=GIB, swapped=GIB + GIB // 8)
    watching.guard.look()
    assert watching.asked == ["it holds 2.28 GB, above 2.15 GB (a test)"]
    fake(tmp_path, held=2 * GIB + GIB // 2)
    with pytest.raises(EndedError):
        watching.guard.look()


def test_a_small_container_on_a_large_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(fake(tmp_path), "proc/self/cgroup", "0::/job\n")
    write(tmp_path, "proc/self/mountinfo", V2)
    group(tmp_path, "job", memory__max=str(2 * GIB), memory__current=str(GIB))
    watching = Watching(tmp_path, 2 * GIB, monkeypatch)
    watching.guard.look()
    assert watching.asked == []
    group(tmp_path, "job", memory__current=str(2 * GIB - GIB // 8))
    watching.guard.look()
    assert watching.asked == ["134 MB of 2.15 GB are left in its control group"]


def test_the_thread_looks(tmp_path: Path) -> None:
    machine, asked = Host(fake(tmp_path, available=GIB)), threading.Event()
    before = threading.active_count()
    with Guard(machine, Budget(2 * GIB, ""), lambda _: asked.set(), print, interval=0.001):
        assert asked.wait(30.0)
    assert threading.active_count() == before


@pytest.mark.slow
def test_the_process_ends_though_it_cannot_speak(tmp_path: Path) -> None:
    fake(tmp_path, available=GIB // 2)
    code = f"""
import threading, time
from pathlib import Path
from gpt2.machine.host_memory import Budget, Guard, Host
with Guard(Host(Path({str(tmp_path)!r})), Budget(2**31, ""), print, time.sleep, interval=0.01):
    threading.Event().wait()
"""
    code = code.replace("time.sleep", "lambda _: time.sleep(1000)")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == Exit.MEMORY
    assert "memory guard" in done.stderr or "in look" in done.stderr


@pytest.mark.parametrize(("before", "after"), [(0, 500), (-5, 500), (500, 500), (800, 800)])
def test_the_score_is_raised_and_never_lowered(before: int, after: int, tmp_path: Path) -> None:
    write(fake(tmp_path), "proc/self/oom_score_adj", f"{before}\n")
    Host(tmp_path).offer_to_the_oom_killer()
    assert int((tmp_path / "proc/self/oom_score_adj").read_text()) == after


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_kernel_takes_the_score(without_torch: RunScript) -> None:
    code = "from gpt2.machine.host_memory import Host; Host().offer_to_the_oom_killer()"
    done = without_torch("-c", f"{code}; print(open('/proc/self/oom_score_adj').read())")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 500


def test_a_system_without_proc(tmp_path: Path) -> None:
    elsewhere = Host(tmp_path)
    assert not elsewhere.watched
    elsewhere.offer_to_the_oom_killer()


def test_the_root_of_this_machine_is_looked_up_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "ROOT", fake(tmp_path, total=7 * GIB))
    assert Host().total() == 7 * GIB
