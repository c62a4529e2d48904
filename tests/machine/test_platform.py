"""What a system or a file system may lack: where it is used, and what happens without it."""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2 import evaluate, sample
from gpt2.config import scratch
from gpt2.config.errors import Exit, UserError
from gpt2.machine import host_memory, processor, ranks
from gpt2.run_dir import resume
from gpt2.session import session
from tests.support import tiny

#: Facilities that nothing here needs.
NOWHERE = (
    "gethostname", "getfqdn", "gethostbyname", "getlogin", "getuser", "getpwuid", "pwd", "grp",
    "termios", "ttyname", "ctermid", "sendfile", "copy_file_range", "posix_fallocate", "mkfifo",
    "fork",
)  # fmt: skip
#: Each facility that is not everywhere: the files that may use it. What happens without it is said
#: there, and tested below or by the test that is named.
USED: dict[str, set[str]] = {
    "symlink_to": {"gpt2/files/link.py"},
    "symlink": set(),
    "readlink": set(),
    "fcntl": {"gpt2/files/lock.py", "scripts/nodes.py"},  # of interfaces, on Linux
    "ctypes": {"gpt2/machine/device.py", "scripts/study/process.py"},  # by hasattr; on Linux alone
    "resource": {"gpt2/machine/device.py"},  # on every Unix
    "sched_getaffinity": {"gpt2/machine/processor.py"},
    "setpriority": {"gpt2/machine/processor.py"},
    "memmap": {"gpt2/data/memmap.py", "gpt2/data/prepare/adoption.py"},
    "curses": {"scripts/kconfig/menus.py"},  # tests/config/test_environment.py
    "killpg": {"scripts/study/process.py"},  # on every Unix
    "getloadavg": {"gpt2/machine/processor.py"},
    "tempfile": {"gpt2/config/scratch.py", "gpt2/config/entry.py"},  # tests/config/test_errors.py
    **{name: set() for name in NOWHERE},
    # Several nodes alone: a name that is not found is refused (tests/scripts/test_nodes.py).
    "gethostbyname": {"scripts/nodes.py"},
    "gethostname": {"gpt2/run_dir/resume.py", "gpt2/session/likeness.py"},  # looks nothing up
}


def facilities(path: Path) -> set[str]:
    """The names in USED that a module takes as an attribute or imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Import):
            found |= {one.name.split(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module).split(".")[0], *(one.name for one in node.names)}
    return found & USED.keys()


def modules() -> list[Path]:
    root = tiny.REPOSITORY
    return [
        path for folder in ("gpt2", "scripts") for path in sorted((root / folder).rglob("*.py"))
    ]


@pytest.mark.slow
def test_what_is_not_everywhere_is_used_in_few_places() -> None:
    users: dict[str, set[str]] = {name: set() for name in USED}
    for path in modules():
        for name in facilities(path):
            users[name].add(path.relative_to(tiny.REPOSITORY).as_posix())
    assert users == USED


#: What else looks there, and takes nothing for an answer: AMD's cards, the mount of a folder.
_KERNEL = {"scripts/study/amd.py", "scripts/study/slurm/submit.py"}


def test_files_of_the_kernel_are_read_in_machine_alone() -> None:
    for path in modules():
        if path.relative_to(tiny.REPOSITORY).as_posix() in _KERNEL:
            continue
        text = path.read_text(encoding="utf-8")
        constants = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
        found = [c for c in constants if isinstance(c, str) and c.startswith(("/proc/", "/sys/"))]
        assert not found or path.parent.name == "machine", (path, found)


def refuse(number: int) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def no_folder_sync(patch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    patch.setattr(os, "fsync", fsync)


def no_proc(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(host_memory, "ROOT", Path("/no/such/root"))
    patch.setattr(processor, "_INFORMATION", Path("/no/such/file"))


LACKS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "links": lambda patch: patch.setattr(os, "symlink", refuse(errno.EOPNOTSUPP)),
    "affinity": lambda patch: patch.delattr(os, "sched_getaffinity", raising=False),
    "priorities": lambda patch: patch.setattr(os, "setpriority", refuse(errno.EPERM)),
    "fsync of folders": no_folder_sync,
    "/proc": no_proc,
    "load": lambda patch: patch.setattr(os, "getloadavg", refuse(errno.ENOENT)),
    "terminal": lambda patch: patch.setattr(sys, "stdin", None),
}


@pytest.mark.parametrize("lack", LACKS)
def test_the_entries_work_without(
    lack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    monkeypatch.setattr(resume, "RUNS", runs)
    monkeypatch.setattr(session, "RUNS", runs)
    LACKS[lack](monkeypatch)
    data = tiny.make_data(tmp_path)
    flags = tiny.flags(data, tmp_path, "--max-steps", "2", "--checkpoint-interval", "1")
    place = flags.index("--run-dir")
    assert tiny.main([*flags[:place], *flags[place + 2 :]]) == Exit.OK  # the default run directory
    given = ["--run", str(runs / "latest"), "--device", "cpu"]
    assert evaluate.main(given) == Exit.OK
    assert sample.main([*given, "--tokens", "2", "--prompt", "to"]) == Exit.OK
    assert capsys.readouterr().out.count("loss") > 1


def test_without_a_temporary_folder_the_way_out_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that is read-only but for a volume."""
    data = tiny.make_data(tmp_path)
    unwritable = lambda: [str(tmp_path / "none")]  # noqa: E731
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", unwritable)
    monkeypatch.setattr(tempfile, "tempdir", None)
    more = ("--max-steps", "1")
    with pytest.raises(UserError, match="by the variable TMPDIR") as caught:
        tiny.train(data, tmp_path / "run", *more)
    assert caught.value.code == Exit.CONFIG
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be written \(No space"), scratch.folder():
        refuse(errno.ENOSPC)()
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_ranks_need_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="WORLD_SIZE=1 before the command"):
        ranks.init_distributed("cpu", "none")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert ranks.init_distributed("cpu", "none").first


def test_without_locks_a_run_is_refused_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny.make_data(tmp_path)
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    with pytest.raises(UserError, match=r"locks no files .* choose a folder on a local disk"):
        tiny.train(data, tmp_path / "run")


def test_without_maps_the_data_are_refused_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny.make_data(tmp_path)
    monkeypatch.setattr(np, "memmap", refuse(errno.ENODEV))
    with pytest.raises(UserError, match="copy the data to a local disk") as caught:
        tiny.train(data, tmp_path / "run")
    assert caught.value.code == Exit.DATA
    monkeypatch.undo()
    assert tiny.train(data, tmp_path / "run", "--max-steps", "1") == Exit.OK  # of another disk
