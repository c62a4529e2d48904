"""Trackers: given what metrics.jsonl has, and harmless whatever they do."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gpt2.config import plugins
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import PLUGIN_PACKAGES
from gpt2.run_dir import tracking
from tests.support import tiny

PACKAGE = PLUGIN_PACKAGES["TRACKER"]
STEPS = ("--max-steps", "3")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a tracker."""
    run = tmp_path_factory.mktemp("plain") / "run"
    assert tiny.train(data, run, *STEPS) == Exit.OK
    return run


@pytest.fixture
def forget() -> Iterator[None]:
    """Let no plug-in that was imported with a fake outlive the test."""
    yield
    for name in plugins.names(PACKAGE):
        sys.modules.pop(f"{PACKAGE}.{name}", None)


class FakeTrackio(types.ModuleType):
    """A library `trackio` that keeps what it is given, and does `hurt` at one of its calls."""

    def __init__(self, at: str = "", hurt: Callable[[], object] = int) -> None:
        super().__init__("trackio")
        self.at, self.hurt = at, hurt
        self.opened: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.ended = 0
        self.threads: set[str] = set()

    def _passing(self, at: str) -> None:
        self.threads.add(threading.current_thread().name)
        if at == self.at:
            self.hurt()

    def Markdown(self, text: str) -> tuple[str, str]:  # noqa: N802
        return ("markdown", text)

    def init(self, **given: Any) -> FakeTrackio:
        self._passing("init")
        self.opened.append(given)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self._passing("log")
        self.logged.append((step, values))

    def finish(self) -> None:
        self._passing("finish")
        self.ended += 1


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, forget: None) -> Callable[[FakeTrackio], None]:
    return lambda fake: monkeypatch.setitem(sys.modules, "trackio", fake)


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    left_out = ("step", "time")
    return {k: v for k, v in line.items() if k not in left_out and isinstance(v, int | float)}


def grouped(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by the names that a tracker has."""
    group = "train" if "loss" in line else "val"
    return {f"{group}/{k.removeprefix('val_')}": v for k, v in numbers(line).items()}


def test_a_tracker_gets_the_numbers_of_the_metrics_the_results_and_a_sample(
    data: Path, tmp_path: Path, use: Callable[[FakeTrackio], None]
) -> None:
    fake, run = FakeTrackio(), tmp_path / "run"
    use(fake)
    flags = ("--tracker", "trackio", "--sample-tokens", "5", "--name", "quick")
    assert tiny.train(data, run, *flags, *STEPS) == Exit.OK
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4  # three steps and the evaluation
    *passed, (step, final), (last, sample) = fake.logged
    assert passed == [(line["step"], grouped(line)) for line in lines]
    assert {"train/loss", "val/loss", "val/perplexity"} <= {k for _, v in passed for k in v}
    ((name, (kind, text)),) = sample.items()
    assert (last, name, kind) == (3, "sample", "markdown")
    said = (run / "log.txt").read_text().partition("--- sample")[2].partition("\n")[2]
    assert said.startswith(text.replace("\n    ", "\n")[4:])
    summary = json.loads((run / "summary.json").read_text())
    assert (step, final) == (3, {f"final/{k}": v for k, v in numbers(summary).items()})
    (given,) = fake.opened
    assert given["name"].startswith("quick-")
    assert (given["project"], given["group"]) == ("gpt2", None)
    assert given["config"]["learning_rate"] == 4e-3
    assert given["config"]["optimizer"] == "adamw"
    json.dumps(given["config"])
    assert fake.ended == 1
    assert fake.threads == {"tracker"}


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_same_to_its_tracker(
    data: Path, tmp_path: Path, use: Callable[[FakeTrackio], None]
) -> None:
    run, steps = tmp_path / "run", ("--max-steps", "200")
    fakes = FakeTrackio("log"), FakeTrackio()
    stopped = threading.Event()

    def stop_once() -> None:
        if not stopped.is_set():
            stopped.set()
            os.kill(os.getpid(), signal.SIGTERM)

    fakes[0].hurt = stop_once
    use(fakes[0])
    assert tiny.train(data, run, "--tracker", "trackio", *steps) == Exit.PREEMPTED
    sys.modules.pop(f"{PACKAGE}.trackio")
    use(fakes[1])
    assert tiny.train(data, run, "--tracker", "trackio", *steps) == Exit.OK
    (before,), (after,) = fakes[0].opened, fakes[1].opened
    assert before == after
    assert after["resume"] == "allow"
    logged = [step for fake in fakes for step, _ in fake.logged]
    assert logged == [*range(1, 201), 200, 200]
    assert [fake.ended for fake in fakes] == [1, 1]


@pytest.mark.slow
def test_a_tracker_may_be_chosen_when_a_run_goes_on(
    data: Path, tmp_path: Path, use: Callable[[FakeTrackio], None]
) -> None:
    run, steps = tmp_path / "run", ("--max-steps", "4", "--checkpoint-interval", "2")
    begun = tiny.train_process(data, run, *steps, fault="checkpoint.rename:kill:2")
    assert begun.returncode < 0, begun.stderr
    use(fake := FakeTrackio())
    assert tiny.train(data, run, "--tracker", "trackio", *steps) == Exit.OK
    assert [step for step, _ in fake.logged] == [3, 4, 4, 4]


def fail() -> None:
    raise ValueError("the server is gone\nand more")


def leave() -> None:
    sys.exit("a library that ends its process")


def stall() -> None:
    threading.Event().wait()


@pytest.mark.parametrize("at", ["init", "log", "finish"])
@pytest.mark.parametrize("hurt", [fail, leave, stall], ids=lambda f: f.__name__)
def test_a_tracker_that_fails_or_stalls_costs_one_warning(
    at: str,
    hurt: Callable[[], None],
    data: Path,
    plain: Path,
    tmp_path: Path,
    use: Callable[[FakeTrackio], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    use(FakeTrackio(at, hurt))
    run = tmp_path / "run"
    assert tiny.train(data, run, "--tracker", "trackio", *STEPS) == Exit.OK
    said = [line for line in capsys.readouterr().err.splitlines() if "tracker" in line]
    reason = {
        fail: "ValueError: the server is gone",
        leave: "SystemExit: a library that ends its process",
        stall: "it was not done 0.2 s after the run",
    }[hurt]
    line = f"warning: --tracker is dropped: {reason}; the run directory has everything"
    assert said == [line]
    assert (run / "log.txt").read_text().count(line) == 1
    assert tiny.metrics(run) == tiny.metrics(plain)
    assert tiny.checkpoint_bytes(run) == tiny.checkpoint_bytes(plain)


def test_a_tracker_that_falls_too_far_behind_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "ROOM", 4)
    said: list[str] = []
    held = threading.Event()
    fake = FakeTrackio("log", held.wait)
    tracked = tracking.Tracking(lambda *_: Opened(fake), tmp_path, {}, None, said.append)
    for step in range(20):
        tracked.log(step, {"loss": 1.0})
    assert said == ["--tracker is dropped: it is 4 lines behind; the run directory has everything"]
    tracked.close()  # at once: nothing waits for what was given up
    assert len(said) == 1
    held.set()


class Opened:
    def __init__(self, fake: FakeTrackio) -> None:
        self._fake = fake

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._fake.log(dict(values), step)

    def text(self, step: int, name: str, text: str) -> None:
        raise AssertionError((step, name, text))

    def close(self) -> None:
        self._fake.finish()


def test_only_finite_numbers_are_passed_on(tmp_path: Path) -> None:
    fake, said = FakeTrackio(), list[str]()
    tracked = tracking.Tracking(lambda *_: Opened(fake), tmp_path, {}, None, said.append)
    tracked.log(7, {"step": 7, "loss": float("nan"), "n": 2, "none": None, "layers": {"a": 1.0}})
    tracked.close()
    assert (fake.logged, said) == ([(7, {"n": 2.0})], [])


def test_the_names_of_runs_differ_and_stay(tmp_path: Path) -> None:
    names = set()
    for parent in ("one", "two"):
        run = tmp_path / parent / "run"
        run.mkdir(parents=True)
        name = tracking.name_of(run, run / "tracker")
        assert tracking.name_of(run, run / "tracker", "mine") == name.replace("run", "mine", 1)
        assert tracking.name_of(run, run / "tracker") == name
        names.add(name)
    assert len(names) == 2


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_said_before_there_is_a_run(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: None
) -> None:
    for known in [m for m in sys.modules if m.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    # As if nothing on the path had it.
    monkeypatch.setattr(sys, "meta_path", [Hidden(name), *sys.meta_path])
    with pytest.raises(UserError) as caught:
        tiny.train(data, tmp_path / "run", "--tracker", name, *STEPS)
    assert caught.value.code == Exit.CONFIG
    assert caught.value.messages == (
        f"{name!r} needs the Python package {name!r}: "
        f"install it with {sys.executable} -m pip install {name}",
    )
    assert not (tmp_path / "run").exists()


class Hidden:
    """A finder in whose sight a package does not exist."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, *_: object) -> None:
        if name.split(".", maxsplit=1)[0] == self._package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


class FakeWandb(types.ModuleType):
    """A library `wandb` that notes its calls; nobody is logged in."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[tuple[str, Any]] = []

    def login(self, prompt: bool) -> bool:
        assert not prompt
        return False

    def Html(self, text: str) -> str:  # noqa: N802
        return text

    def Settings(self, **given: Any) -> dict[str, Any]:  # noqa: N802
        return given

    def init(self, **given: Any) -> FakeWandb:
        self.calls.append(("init", given))
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append(("log", (step, values)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


def test_wandb_is_offline_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: None
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    plugin = plugins.load(PACKAGE, "wandb")
    options = plugin.Options(project="mine", entity="", tags="baseline, two words,")
    tracker = plugin.open(tmp_path, "it's-a-run-0123456789ab", {"seed": 1}, options)
    tracker.log(5, {"loss": 1.5})
    tracker.text(5, "sample", "a\n<b>")
    tracker.close()
    (_, given), *rest = fake.calls
    assert rest == [
        ("log", (5, {"loss": 1.5})),
        ("log", (5, {"sample": "<pre>a\n&lt;b&gt;</pre>"})),
        ("finish", None),
    ]
    assert (given["project"], given["entity"]) == ("mine", None)
    assert given["tags"] == ["baseline", "two words"]
    assert (given["mode"], given["id"], given["dir"]) == ("offline", "0123456789ab", tmp_path)
    assert given["settings"]["console"] == "off"


def test_wandb_never_asks_for_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: None
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(RuntimeError, match="WANDB_MODE is online, which needs `wandb login`"):
        plugins.load(PACKAGE, "wandb").open(tmp_path, "run-1", {}, None)
    assert fake.calls == []


def test_tensorboard_is_given_scalars_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: None
) -> None:
    calls: list[tuple[Any, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            calls.append(("open", folder, purge_step))

        def add_text(self, name: str, text: str, step: int = 0) -> None:
            calls.append(("text", name, text, step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append(("scalar", name, value, step))

        def flush(self) -> None:
            calls.append(("flush",))

        def close(self) -> None:
            calls.append(("close",))

    fake = types.ModuleType("torch.utils.tensorboard")
    vars(fake)["SummaryWriter"] = SummaryWriter
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    plugin = plugins.load(PACKAGE, "tensorboard")
    tracker = plugin.open(tmp_path, "run-1", {"seed": 1, "bias": True}, None)
    tracker.log(3, {"train/loss": 2.0, "train/learning_rate": 0.5})
    tracker.text(3, "sample", "one\ntwo")
    tracker.log(2, {"train/loss": 3.0})  # after a rollback
    tracker.close()
    options = ("text", "options", "    bias = True\n    seed = 1", 0)
    assert calls == [
        ("open", str(tmp_path), 3),
        options,
        ("scalar", "train/loss", 2.0, 3),
        ("scalar", "train/learning_rate", 0.5, 3),
        ("flush",),
        ("text", "sample", "    one\n    two", 3),
        ("close",),
        ("open", str(tmp_path), 2),
        options,
        ("scalar", "train/loss", 3.0, 2),
        ("flush",),
        ("close",),
    ]
    # A run can resume by an evaluation after a step whose own values are there for good.
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 4, "loss": 2.5}\n{"step": 4, "val_loss": 2.0}\n')
    for step, group, purged in ((4, "val", 5), (6, "val", 6), (6, "final", 7)):
        calls.clear()
        tracker = plugin.open(tmp_path / "tracker", "run-1", {}, None)
        tracker.log(step, {f"{group}/loss": 2.0})
        tracker.close()
        assert calls[0] == ("open", str(tmp_path / "tracker"), purged)


def test_a_library_is_given_no_step_twice(tmp_path: Path) -> None:
    fake = FakeTrackio()
    first = tracking.LibraryRun(fake, str, tmp_path)
    for step in (1, 2, 3):
        first.log(step, {"train/loss": float(step)})
    again = tracking.LibraryRun(fake, str, tmp_path)  # killed, and resumed after step 1
    for step in (2, 3, 4):
        again.log(step, {"train/loss": -1.0})
    again.log(3, {"val/loss": 9.0})
    again.text(4, "sample", "text")
    assert [step for step, _ in fake.logged] == [1, 2, 3, 4, 3, 4]
    assert fake.logged[2:] == [
        (3, {"train/loss": 3.0}),
        (4, {"train/loss": -1.0}),
        (3, {"val/loss": 9.0}),
        (4, {"sample": "text"}),
    ]
    (tmp_path / "logged").write_text("{")  # damaged by a power cut
    tracking.LibraryRun(fake, str, tmp_path).log(1, {"train/loss": 1.0})
    assert fake.logged[-1] == (1, {"train/loss": 1.0})
