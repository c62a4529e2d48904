"""Row 25: a step or a data loader that hangs ends the run, which says where and can go on."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2.checkpoint import store
from gpt2.config.errors import Exit, UserError
from gpt2.machine import watchdog
from gpt2.machine.watchdog import LONG, START, Watchdog
from tests.support import tiny
from tests.support.fake_matrix import TRAIN

STEPS = ("--max-steps", "8", "--dropout", "0.1", "--checkpoint-interval", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert tiny.train(data, run, *STEPS) == Exit.OK
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "step", "where"),
    [("step.begin:hang:6", 6, "in train"), ("data.batch:hang:7", 7, "in _read")],
    ids=["step", "data loader"],
)
def test_a_run_that_hangs_says_where_and_goes_on(
    fault: str, step: int, where: str, data: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = (*STEPS, "--num-workers", "1", "--hang-timeout", "2")
    done = tiny.train_process(data, run, *more, fault=fault)
    assert done.returncode == Exit.HANG, done.stderr
    line = f"error: hung: step {step}: nothing has moved for 2 s"
    log = (run / "log.txt").read_text()
    for text in (done.stderr, log):
        assert line in text
        # The stacks of all threads: of the one that hangs, and of the one that found out.
        assert where in text
        assert "in _sleep" in text or 'faults.py", line' in text
        assert "in _speak" in text
    assert f"the same command with --run-dir {run} resumes" in log
    assert "a larger --hang-timeout" in log
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", Exit.HANG)
    assert record["end"] is not None
    # The checkpoint before it is whole, nothing half written is left, and the result is the same.
    assert store.steps(run / "checkpoints")[-1] == (step - 1) // 2 * 2
    store.load(store.folder_of(run / "checkpoints", (step - 1) // 2 * 2))
    assert not list((run / "checkpoints").glob(".tmp-*"))
    assert tiny.train(data, run, *STEPS) == Exit.OK  # with another --hang-timeout
    assert tiny.metrics(run) == tiny.metrics(whole)
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(whole)


def test_everything_that_moves_is_reported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A micro-step, a batch of an evaluation, a token: none of them may be long, all may be."""
    told: list[str] = []
    monkeypatch.setattr(Watchdog, "alive", lambda self, *_: told.append(self._now[0]))
    more = ("--max-steps", "2", "--gradient-accumulation", "3", "--sample-tokens", "7")
    assert tiny.train(data, tmp_path / "run", *more, "--eval-batch-size", "1") == Exit.OK
    # In each step the micro-steps, and the end of it.
    assert told.count("step 2") >= 3 + 1
    batches = -(-(25 - 1) // tiny.BLOCK)  # of one sequence; a twentieth of 500 characters
    behind = -(-25 // tiny.BLOCK)  # test behind validation: the step from one to the other, too
    assert told.count("an evaluation") == 2 * (batches + 1) + behind + 1
    assert told.count("saving a checkpoint") == 1
    assert told.count("the end of the run") >= 7


class Clock:
    """A watchdog that is looked through by hand, at moments of our own."""

    def __init__(self, patch: pytest.MonkeyPatch, timeout: float | None, least: float) -> None:
        self.now, self.said = 1000.0, list[str]()
        self.backstop: list[float] = []
        patch.setattr(time, "monotonic", lambda: self.now)
        patch.setattr(
            faulthandler, "dump_traceback_later", lambda later, **_: self.backstop.append(later)
        )
        self.dog = Watchdog(timeout, least, lambda _: None)
        patch.setattr(self.dog, "_end", self.said.append)

    def pass_(self, seconds: float) -> None:
        """Let so many seconds go by, in which the thread looks as often as it should."""
        until = self.now + seconds
        while self.now < until:
            self.now += self.dog._interval
            self.dog.look()

    def steps(self, *seconds: float) -> None:
        for number, taken in enumerate(seconds, 2):
            self.now += taken
            self.dog.look()
            self.dog.step_done()
            self.dog.next_step(number)


@pytest.mark.parametrize(
    ("timeout", "least", "steps", "limit"),
    [
        (None, 60.0, (0.1, 0.1, 0.1), 60.0),
        (None, 900.0, (0.1, 0.1, 0.1), 900.0),
        (None, 60.0, (100.0, 10.0, 11.0, 9.0, 10.0), 200.0),  # the median, not the first
        (None, 60.0, (10.0, *[1.0] * 100, *[30.0] * 50), 600.0),  # of the recent ones
        (5.0, 60.0, (10.0, 10.0), 5.0),
    ],
)
def test_the_limit_of_a_step(
    timeout: float | None, least: float, steps: tuple[float, ...], limit: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    clock = Clock(monkeypatch, timeout, least)
    clock.steps(*steps)
    clock.pass_(limit - 1.0)
    assert clock.said == []
    clock.dog.alive()
    clock.pass_(limit)
    assert clock.said == []
    clock.pass_(3.0)
    assert clock.said[0] == f"step {len(steps) + 1}: nothing has moved for {limit:.0f} s"
    assert clock.backstop[-1] == max(1.5 * limit, watchdog.BACKSTOP)


@pytest.mark.parametrize(("timeout", "start"), [(None, START), (2.0, START), (9000.0, 9000.0)])
def test_what_is_no_step_has_limits_of_its_own(
    timeout: float | None, start: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, timeout, 60.0)
    clock.pass_(start - 5.0)
    assert clock.said == []
    clock.steps(1.0, 1.0)
    with clock.dog.during("saving a checkpoint"):
        clock.pass_(max(start, LONG) - 5.0)
    assert clock.said == []
    clock.pass_(50.0 if timeout is None else timeout - 1.0)  # the step's own limit again, anew
    assert clock.said == []
    clock.dog.starting()  # anew, with a smaller micro-batch
    clock.pass_(start + 5.0)
    assert clock.said[0] == f"the start of the run: nothing has moved for {start:.0f} s"


def test_time_in_which_the_process_does_not_run_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, None, 60.0)
    clock.steps(1.0, 1.0, 1.0)
    for _ in range(20):  # frozen twenty times for a day
        clock.now += 86400.0
        clock.dog.look()
    assert clock.said == []
    clock.pass_(60.0)
    assert len(clock.said) > 0


def test_ctrl_z_takes_the_backstop_along(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    dog = Watchdog(None, 60.0, lambda _: None)
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: done.append("off"))
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: done.append("armed"))

    def kill(process: int, number: int) -> None:
        assert process == os.getpid()
        assert signal.getsignal(number) is signal.SIG_DFL  # else it would not stop
        dog.look()  # the thread may come in between
        done.append(number)

    monkeypatch.setattr(os, "kill", kill)
    before = signal.getsignal(signal.SIGTSTP)
    try:
        dog._stopped(signal.SIGTSTP, None)
        assert done == ["off", signal.SIGTSTP]
        assert signal.getsignal(signal.SIGTSTP) == dog._stopped
    finally:
        signal.signal(signal.SIGTSTP, before)
    dog.look()
    assert done[-1] == "armed"


def test_0_is_no_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    armed: list[float] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda t, **_: armed.append(t))
    with Watchdog(0, 0.001, lambda _: None) as dog:
        dog.step_done()
        dog.next_step(2)
        time.sleep(0.05)
        assert not dog._thread.is_alive()
    assert armed == []


#: A process in which nothing but C runs, and holds Python's lock.
STUCK = """
import ctypes, threading
from gpt2.machine import watchdog

looked = threading.Event()
original = watchdog.Watchdog.look
def look(self):
    original(self)
    if self._now[1] == 0.2:
        looked.set()

watchdog.Watchdog.look = look
watchdog.BACKSTOP, watchdog.INTERVAL = 0.3, 0.02
with watchdog.Watchdog(0.2, 0.2, print) as dog:
    dog.step_done()
    dog.next_step(2)
    looked.wait()
    dog.alive()
    ctypes.PyDLL(None).sleep(40)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="calls the C library")
def test_the_backstop_needs_no_thread_of_python() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK], cwd=tiny.REPOSITORY, capture_output=True, text=True,
        timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode in (Exit.BUG, Exit.HANG)  # 7 where the thread was just in time
    assert "in <module>" in done.stderr


@pytest.mark.parametrize("value", ["-1", "soon", "1e9", "nan"])
def test_a_timeout_that_cannot_be(value: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--hang-timeout"):
        tiny.train(data, tmp_path / "run", "--hang-timeout", value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_matrix_with_a_cell_that_diverges_and_one_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 32: the others finish, the code says so, a rerun does what is unfinished alone."""
    from scripts.study import actions, runner
    from tests.scripts.study.test_runner import Work

    monkeypatch.setattr(actions, "TRAIN", TRAIN)
    monkeypatch.setattr(actions, "REPORT", tmp_path / "no report")
    monkeypatch.setattr(runner, "_LOOK", 0.01)
    monkeypatch.setenv("FAKE_FAULTS", str(tmp_path / "faults"))
    work = Work(tmp_path, capsys)
    four = ('MATRIX_OPTIMIZERS="adamw"', 'MATRIX_PRUNING_METHODS="none"', 'MATRIX_SEEDS="1..4"')
    work.faults(
        adamw_none_seed1=["exit:5"], adamw_none_seed2=["exit:7"], adamw_none_seed3=["exit:7", "ok"]
    )
    assert work(*four) == Exit.BUG  # of two kinds
    assert work.finished() == {"adamw-none-seed3", "adamw-none-seed4"}
    failed = [(line["cell"][-1], line["kind"], line["retry"]) for line in work.events("failed")]
    assert sorted(failed) == [
        ("1", "diverged", False), ("2", "hang", False), ("2", "hang", True), ("3", "hang", True),
    ]  # fmt: skip
    started = [(line["cell"][-1], line["going_on"]) for line in work.events("started")]
    assert started.count(("3", True)) == 1  # once more, from its checkpoint
    before = len(started)
    work.faults(adamw_none_seed1=["ok"], adamw_none_seed2=["ok"])
    assert work(*four) == Exit.DIVERGED  # what diverged would do so again
    again = [line["cell"][-1] for line in work.events("started")][before:]
    assert again == ["2"]
    assert work.finished() == {f"adamw-none-seed{n}" for n in (2, 3, 4)}
