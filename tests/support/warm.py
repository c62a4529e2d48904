"""Processes of Python that start warm: forked from one that has imported torch and this package.

A start of gpt2/train.py takes three seconds of a core before its first step, nearly all of them for
imports. A process made here is as one started by its command line in all that a test can see: an
interpreter of its own with fresh state of this package, its arguments, environment, folder, output
files and exit code, and an end by a signal is its own. tests/support/test_warm.py holds that.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import itertools
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
#: All that a run imports sooner or later and that takes long.
IMPORTS = (
    "gpt2.train",
    "gpt2.session.session",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
)
#: How long torchrun lets the other ranks save when one has failed, in seconds.
GRACE = 30.0


class Process:
    """A warm process: `python` with `arguments`, which begin with a script's path or -c."""

    def __init__(self, arguments: Sequence[str], cwd: Path, env: dict[str, str]) -> None:
        self.arguments = list(arguments)
        self.returncode: int | None = None
        self._out, self._err = _server().files()
        request = (self.arguments, str(cwd), env, str(self._out), str(self._err))
        self.pid = _server().start(request)

    def poll(self) -> int | None:
        """Return the exit code, minus a signal's number; None while it runs."""
        if self.returncode is None:
            self.returncode = _server().ended(self.pid, 0.0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Return the exit code once it has ended; killed, raises TimeoutExpired."""
        if self.returncode is None:
            self.returncode = _server().ended(self.pid, timeout)
        if self.returncode is None:
            self.send_signal(signal.SIGKILL)
            raise subprocess.TimeoutExpired(self.arguments, timeout, *self.output())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process is known to have ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def output(self) -> tuple[str, str]:
        """Return what it has written to stdout and stderr until now."""
        out, err = (path.read_text(errors="replace") for path in (self._out, self._err))
        return out, err


def run(
    arguments: Sequence[str], env: dict[str, str], cwd: Path = REPOSITORY, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a warm process to its end, as subprocess.run does."""
    process = Process(arguments, cwd, env)
    code = process.wait(timeout)
    return subprocess.CompletedProcess(process.arguments, code, *process.output())


def run_ranks(
    count: int, arguments: Sequence[str], env: dict[str, str], timeout: float = 180
) -> subprocess.CompletedProcess[str]:
    """Run `count` ranks of one run to their end, as torchrun does on one machine.

    When one has failed, the others are told to end, and killed after GRACE. Their outputs follow
    each other; the exit code is 1 if any failed.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    ranks = [
        Process(arguments, REPOSITORY, {**env, **common, "RANK": rank, "LOCAL_RANK": rank})
        for rank in map(str, range(count))
    ]
    deadline = time.monotonic() + timeout
    while any(rank.poll() is None for rank in ranks) and not any(r.poll() for r in ranks):
        if time.monotonic() > deadline:
            for rank in ranks:
                rank.send_signal(signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        time.sleep(0.02)
    for rank in ranks:  # which only those take that are left when one has failed
        rank.send_signal(signal.SIGTERM)
    for rank in ranks:
        with contextlib.suppress(subprocess.TimeoutExpired):  # killed by that
            rank.wait(GRACE)
    texts = zip(*(rank.output() for rank in ranks), strict=True)
    code = int(any(rank.returncode for rank in ranks))
    return subprocess.CompletedProcess(list(arguments), code, *map("".join, texts))


Request = tuple[list[str], str, dict[str, str], str, str]


class _Server:
    """The end of the pipe that asks: one server for each process of pytest."""

    def __init__(self) -> None:
        self.pipe, other = Pipe()
        self.codes: dict[int, int] = {}
        self.folder = Path(tempfile.mkdtemp())
        self.numbers = itertools.count()
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(other.fileno()), str(self.folder)],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            pass_fds=[other.fileno()],
        )
        other.close()
        atexit.register(self.close)

    def files(self) -> tuple[Path, Path]:
        """Return the paths of a process's outputs."""
        number = next(self.numbers)
        return self.folder / f"{number}.out", self.folder / f"{number}.err"

    def start(self, request: Request) -> int:
        self.pipe.send(request)
        while True:
            pid, code = self.pipe.recv()
            if code is None:
                return int(pid)
            self.codes[pid] = code

    def ended(self, pid: int, timeout: float) -> int | None:
        deadline = time.monotonic() + timeout
        while pid not in self.codes:
            if not self.pipe.poll(max(0.0, deadline - time.monotonic())):
                return None
            which, code = self.pipe.recv()
            self.codes[which] = code
        return self.codes[pid]

    def close(self) -> None:
        self.pipe.close()
        self.process.wait()


@functools.cache
def _server() -> _Server:
    return _Server()


def _serve(pipe: Connection) -> Request | None:
    """Fork for each request: return it in the process that is to be it, None at the end."""
    bell, ring = os.pipe()
    os.set_blocking(ring, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ring)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest
    living: set[int] = set()
    while True:
        ready = wait([pipe, bell])
        if bell in ready:
            os.read(bell, 512)
        while living:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            living.discard(pid)
            pipe.send((pid, os.waitstatus_to_exitcode(status)))
        if pipe in ready:
            try:
                request: Request = pipe.recv()
            except EOFError:
                for pid in living:
                    os.kill(pid, signal.SIGKILL)
                return None
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                pipe.close()
                os.close(bell)
                os.close(ring)
                return request
            living.add(pid)
            pipe.send((pid, None))


def _become(request: Request) -> NoReturn:
    """Be the program that was asked for, as `python` would.

    All but the end of an interpreter, which takes down every object, shared ones among them, for
    a second: threads are waited for, and exit handlers run.
    """
    try:
        _execute(request)
        code = 0
    except SystemExit as left:
        code = _exit_code(left.code)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def _exit_code(code: str | int | None) -> int:
    if isinstance(code, str):
        print(code, file=sys.stderr)
        return 1
    return (code or 0) & 0xFF


def _execute(request: Request) -> None:
    arguments, cwd, env, out, err = request
    for number, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path[0] = ""
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


def _main(number: int, outputs: str) -> None:
    folder = sys.path[0]
    sys.path[0] = str(REPOSITORY)
    for name in IMPORTS:
        importlib.import_module(name)
    sys.path[0] = folder
    gc.freeze()  # nobody's collection writes to, and so copies, the pages that all share
    request = _serve(Connection(number))
    if request is not None:
        _become(request)
    shutil.rmtree(outputs)  # here, as a worker of pytest-xdist may leave without a word


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2])
