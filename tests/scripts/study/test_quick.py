"""The quick answer: what it compares, how long its runs are, and what it refuses with a way out."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest

from gpt2.config.errors import UserError
from scripts import compare
from scripts.study import actions, forecast, process, quick
from scripts.study.folder import MatrixFolder
from scripts.study.quick import (
    Quick,
    continuation,
    fitting_steps,
    is_quick,
    narrow,
    of_length,
    refuse_at_once,
    refuse_when_known,
)
from scripts.study.records import CellRecord, Probe
from scripts.study.spec import RawSpec, add_flags, from_config
from tests.support.fake_matrix import TRAIN
from tests.support.small_cells import cell_record, matrix_record

BASE = ('MATRIX_AXES="bias=y,n"', 'MATRIX_TUNE="beta=1"', "MAX_STEPS=900", "DEVICE_CPU=y")


def probe(step: float, evaluation: float = 1.0, other: float = 5.0) -> Probe:
    return Probe(
        step_seconds=step, evaluation_seconds=evaluation, other_seconds=other,
        peak_host_bytes=1, peak_device_bytes=1,
    )  # fmt: skip


def raw_of(tmp_path: Path, *lines: str, flags: str = "") -> RawSpec:
    path = tmp_path / "config"
    path.write_text("".join(f"CONFIG_{line}\n" for line in lines))
    raw = from_config(path)
    add_flags(raw, flags.split())
    return raw


def asked(seeds: int = 3, seconds: float = 600.0, **axes: str) -> Quick:
    given = {quick_name: axes.get(quick_name.lower(), "").split() for quick_name in quick.VARIABLES}
    return Quick(given, seeds, seconds)


def test_only_what_is_asked_is_an_axis(tmp_path: Path) -> None:
    raw = raw_of(tmp_path, *BASE, 'MATRIX_SEEDS="1..9"')
    assert narrow(raw, asked(optimizer="adamw muon")) == []
    matrix = of_length(raw, 240, MatrixFolder(tmp_path / "out"))
    assert [cell.name for cell in matrix.cells] == [
        f"{name}-seed{seed}" for seed in (1, 2, 3) for name in ("adamw", "muon")
    ]
    for cell in matrix.cells:
        train = cell.config.train
        assert (train.max_steps, train.num_epochs, train.max_time) == (240, 0.0, 0)
        assert (train.eval_interval, train.log_interval, train.sample_tokens) == (60, 4, 0)


def test_methods_and_sparsities_are_axes_of_one_optimizer(tmp_path: Path) -> None:
    raw = raw_of(tmp_path, *BASE)
    narrow(raw, asked(seeds=2, pruning_method="none magnitude", target_sparsity="0.5 0.9"))
    assert raw.texts["NAME"].startswith("compare-none-magnitude-0.5-0.9-")
    cells = of_length(raw, 100, MatrixFolder(tmp_path / "out")).cells
    assert [cell.label for cell in cells] == 2 * ["none", "magnitude-0.5", "magnitude-0.9"]


def test_a_rate_chosen_for_one_optimizer_holds_for_none_of_several(tmp_path: Path) -> None:
    lines = ('LEARNING_RATE="0.01"', 'ADAMW_BETA2="0.98"', 'GRAD_CLIP="0.5"')
    raw = raw_of(tmp_path, *lines)
    (note,) = narrow(raw, asked(optimizer="adamw muon"))
    assert "--learning-rate 0.01" in note
    assert "--adamw-beta2 0.98" in note
    cells = {c.label: c.config for c in of_length(raw, 100, MatrixFolder(tmp_path / "o")).cells}
    assert cells["adamw"].optim.learning_rate == 6e-4
    assert cells["muon"].optim.learning_rate != 0.01
    assert {config.optim.grad_clip for config in cells.values()} == {0.5}
    typed = raw_of(tmp_path, *lines, flags="--learning-rate 0.02")
    narrow(typed, asked(optimizer="adamw muon"))
    assert typed.base["LEARNING_RATE"] == "0.02"
    one = raw_of(tmp_path, *lines)
    assert narrow(one, asked(pruning_method="none magnitude")) == []
    assert one.base["LEARNING_RATE"] == "0.01"


def test_the_same_question_has_the_same_folder_and_another_another(tmp_path: Path) -> None:
    def name(flags: str = "", **given: str) -> str:
        raw = raw_of(tmp_path, "MAX_STEPS=900", flags=flags)
        narrow(raw, asked(**given))
        return raw.texts["NAME"]

    first = name(optimizer="adamw muon")
    assert re.fullmatch("compare-adamw-muon-[0-9a-f]{6}", first)
    assert name(optimizer="adamw muon") == first
    others = {name(optimizer="adamw lion"), name("--dropout 0.1", optimizer="adamw muon")}
    assert len(others | {first}) == 3


@pytest.mark.parametrize(
    ("given", "flags", "words"),
    [
        ({}, "", 'nothing to compare: OPTIMIZERS="adamw muon"'),
        ({"target_sparsity": "0.5 0.9"}, "", "SPARSITIES= has no effect: nothing is pruned"),
        ({"optimizer": "adamw muon adamw"}, "", "OPTIMIZERS: adamw is named twice"),
        (
            {"optimizer": "adamw muno"},
            "",
            "OPTIMIZERS: no optimizer 'muno'; did you mean muon",
        ),
        ({"optimizer": "adamw"}, "", "nothing to compare: every run is adamw"),
        ({"optimizer": "adamw muon"}, "--optimizer sgd", "--optimizer and OPTIMIZERS= set"),
        ({"pruning_method": "magnitude", "target_sparsity": "1.5"}, "", "--target-sparsity: 1.5"),
    ],
)
def test_what_cannot_be_is_one_line(
    given: dict[str, str], flags: str, words: str, tmp_path: Path
) -> None:
    raw = raw_of(tmp_path, flags=flags)

    def compared() -> None:
        narrow(raw, asked(**given))
        of_length(raw, 100, MatrixFolder(tmp_path / "out"))

    with pytest.raises(UserError) as error:
        compared()
    assert words in str(error.value)


def test_the_steps_fill_the_time_and_no_more() -> None:
    cells = [cell_record(name=f"{k}{n}", kind=k) for k in "ab" for n in range(3)]
    record = matrix_record(*cells)
    probes = {"a": probe(0.1), "b": probe(0.3, other=8.0)}
    begun = time.monotonic() - 30.0
    steps, seconds = fitting_steps(record, probes, asked(seconds=600.0), begun, [None, 90_000])
    fixed = 3 * (5.0 + 4.0) + 3 * (8.0 + 4.0)
    exact = (0.85 * 600.0 - 30.0 - fixed) / (3 * 0.1 + 3 * 0.3)
    assert 0.9 * exact < steps <= exact
    assert steps % 10 == 0
    assert seconds == pytest.approx(fixed + steps * 1.2)
    assert 30.0 + seconds < 0.86 * 600.0
    assert fitting_steps(record, probes, asked(seconds=600.0), begun, [None, 77])[0] == 77
    two = matrix_record(*cells, jobs=2)
    assert fitting_steps(two, probes, asked(seconds=600.0), begun, [])[0] > 1.8 * steps


def test_too_little_time_names_one_that_is_enough() -> None:
    record = matrix_record(*(cell_record(name=f"a{n}", kind="a") for n in range(6)))
    probes, begun = {"a": probe(1.0)}, time.monotonic()
    with pytest.raises(UserError, match="2 min 00 s is too short for 6 runs of at lea") as error:
        fitting_steps(record, probes, asked(seconds=120.0), begun, [])
    assert "one takes 59 s" in str(error.value)  # 5 to start, 4 evaluations, 50 steps
    assert fitting_steps(record, probes, enough(error.value), begun, [])[0] >= 50


def enough(error: UserError) -> Quick:
    """Return the question with the time that an error names."""
    found = re.search(r"TIME=(\d+)m", str(error))
    assert found
    return asked(seconds=60.0 * int(found[1]))


def test_too_little_time_is_refused_before_anything_is_measured() -> None:
    record = matrix_record(*(cell_record(name=f"{k}{n}", kind=k) for k in "ab" for n in range(3)))
    refuse_at_once(record, asked(seconds=60.0))
    with pytest.raises(UserError, match=r"TIME: 10 s is too short for 6 runs: .* 24 s at") as error:
        refuse_at_once(record, asked(seconds=10.0))
    assert "give TIME=3m, or fewer SEEDS or rows" in str(error.value)
    refuse_at_once(record, enough(error.value))


def test_a_slow_first_row_ends_the_measuring() -> None:
    record = matrix_record(*(cell_record(name=f"{k}{n}", kind=k) for k in "ab" for n in range(3)))
    probes, begun = {"a": probe(1.0)}, time.monotonic() - 25.0
    refuse_when_known(record, {}, asked(seconds=120.0), begun)
    refuse_when_known(record, probes, asked(seconds=400.0), begun)
    with pytest.raises(UserError, match="2 min 00 s is too short for 6 runs") as error:
        refuse_when_known(record, probes, asked(seconds=120.0), begun)
    both = {"a": probe(1.0), "b": probe(1.0)}
    assert fitting_steps(record, both, enough(error.value), begun - 25.0, [])[0] >= 50


def test_a_name_says_what_continues_it() -> None:
    assert is_quick("compare-adamw-muon-0a1b2c")
    assert not is_quick("compare-rates")
    assert continuation("study") == "not running; 'make test-matrix' continues it"
    assert continuation("compare-a-b-012345") == "not running; the same 'make compare' continues it"


@pytest.mark.parametrize(
    ("argument", "words"),
    [("--time=soon", "soon is not a time: write 90s, 10m or 1h"), ("--time=0", "0 is not a time"),
     ("--seeds=1", "SEEDS=1: give 2 to 100 seeds"), ("--seeds=many", "SEEDS=many: give 2 to 100")],
)  # fmt: skip
def test_wrong_words_on_the_command_line(argument: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        compare.main(["--optimizers", "adamw muon", argument])


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Return a comparison of two optimizers in tmp_path/out, without its time."""
    meta = {"splits": {"train": {"tokens": 100_000}}, "tokenizer": {"vocab_size": 9}}
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "meta.json").write_text(json.dumps(meta))
    config = tmp_path / "config"
    config.write_text(
        f'CONFIG_DATASET_TEXT=y\nCONFIG_DATA_DIR="{tmp_path}"\nCONFIG_DEVICE_CPU=y\n'
        "CONFIG_MAX_STEPS=5000\n"
    )
    out = str(tmp_path / "out")
    return ["--config", str(config), "--out", out, "--optimizers", "adamw,muon", "--seeds", "2"]


def test_a_short_run_ends_when_the_time_is_up(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(actions, "TRAIN", sleeper)
    monkeypatch.setattr(compare, "end_of", lambda *_: time.monotonic() + 0.1)
    with pytest.raises(UserError) as error:
        compare.main([*command, "--time", "90s"])
    assert "1 min 30 s is too short: the short run of adamw was stopped after" in str(error.value)
    assert "give at least TIME=2m, or a smaller --model" in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("end", ["too short", "failed", "Ctrl-C"])
def test_nothing_is_left_where_nothing_was_trained(
    end: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_run(folder: MatrixFolder, cells: list[CellRecord], *_: object) -> dict[str, str]:
        assert (tmp_path / "out" / "cells").is_dir()
        if end == "Ctrl-C":
            raise KeyboardInterrupt
        folder.write_probes({cells[0].kind: probe(9.0)})
        return {cells[0].kind: "it failed"} if end == "failed" else {}

    monkeypatch.setattr(compare, "probe", short_run)
    with pytest.raises(KeyboardInterrupt if end == "Ctrl-C" else UserError):
        compare.main([*command, "--time", "90s"])
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt if end == "Ctrl-C" else UserError):
        compare.main([*command, "--time", "90s"])
    assert (tmp_path / "out").exists()  # somebody else made it


@pytest.mark.slow
def test_it_measures_runs_and_continues_at_the_same_length(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(actions, "TRAIN", TRAIN)
    monkeypatch.setattr(actions, "REPORT", tmp_path / "no report")
    monkeypatch.setattr(process, "GRACE", 0.3)
    measured = list[str]()

    def short_run(folder: MatrixFolder, cells: list[CellRecord], *_: object) -> dict[str, str]:
        measured.append(cells[0].kind)
        folder.write_probes({"adamw": probe(0.01), "muon": probe(0.02)})
        return {}

    monkeypatch.setattr(compare, "probe", short_run)
    assert forecast.probe is not short_run
    out = tmp_path / "out"
    command += ["--time", "90s"]
    assert compare.main(command) == 0
    said = capsys.readouterr().out
    assert "(each trains for 60 s at most, and evaluates): adamw, muon" in said
    assert "adamw: 0.01 s a step, 5 s to start and end, 1 s an evaluation" in said
    found = re.search(
        r"2 rows x 2 seeds = 4 runs of ([\d,]+) steps each, about (\d+) s a run", said
    )
    assert found
    assert "(5 s to start and end)" in said
    steps = int(found[1].replace(",", ""))
    assert 100 <= steps < 5000
    assert len(list(out.glob("cells/*/summary.json"))) == 4
    assert {cell.steps for cell in MatrixFolder(out).matrix().cells} == {steps}
    assert compare.main(command) == 0  # nothing is measured or run again
    assert measured == ["adamw", "muon"]
    assert f"of {found[1]} steps each; 0 are left; 'make watch'" in capsys.readouterr().out
