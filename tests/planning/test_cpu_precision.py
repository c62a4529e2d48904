"""What --precision auto takes on a CPU, with measurements, loads and processors that are faked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gpt2.config.errors import UserError
from gpt2.machine import processor
from gpt2.planning import calibration, cpu_precision
from gpt2.planning.calibration import LEAST_GAIN, Choice, kept_choice
from gpt2.planning.cpu_precision import choose, measure_gain, report
from gpt2.session import check as checks
from tests.conftest import Arm
from tests.support import tiny
from tests.support.planning import configured

CPU = torch.device("cpu")
WIDE = "--model gpt2-mini --device cpu"


class Machine:
    """A CPU that is `loaded` or not, and on which bf16 is `gain` times as fast; counts looks."""

    def __init__(self) -> None:
        self.gain, self.loaded, self.measured = 2.0, False, 0

    def measure(self, _: object) -> float:
        self.measured += 1
        return self.gain


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    information = tmp_path / "cpuinfo"
    information.write_text("model name : Some chip\nflags : avx2 amx_bf16 avx512_bf16\n")
    monkeypatch.setattr(processor, "_INFORMATION", information)
    monkeypatch.setattr(cpu_precision, "loaded", lambda: found.loaded)
    monkeypatch.setattr(cpu_precision, "measure_gain", found.measure)
    return found


def taken(line: str, file: Path, measure: bool = True) -> Choice:
    return choose(configured(line), CPU, measure, file)


def test_it_is_measured_once_and_kept_for_the_cpu_and_torch(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gains"
    assert taken(WIDE, file, measure=False) == kept_choice(384, file)
    assert not file.exists()
    first = taken(WIDE, file)
    assert (first.precision, machine.measured) == ("bf16", 1)
    assert "2.00 times" in first.why
    machine.gain, machine.loaded = 1.0, True
    assert taken(WIDE, file) == first == taken(WIDE, file, measure=False) == kept_choice(384, file)
    assert machine.measured == 1
    (key,) = json.loads(file.read_text())
    assert key == f"Some chip (amx_bf16, avx512_bf16), torch {torch.__version__}"
    monkeypatch.setattr(calibration.metadata, "version", lambda _: "99.0")
    assert not kept_choice(384, file).decided


@pytest.mark.parametrize(("gain", "name"), [(1.42, "fp32"), (LEAST_GAIN, "bf16"), (0.4, "fp32")])
def test_bf16_must_be_faster_by_the_margin(
    gain: float, name: str, machine: Machine, tmp_path: Path
) -> None:
    assert pytest.approx(1.43) == LEAST_GAIN
    machine.gain = gain
    assert taken(WIDE, tmp_path / "gains").precision == name


def test_a_loaded_machine_is_not_measured_and_nothing_is_kept(
    machine: Machine, tmp_path: Path
) -> None:
    file = tmp_path / "gains"
    machine.loaded = True
    choice = taken(WIDE, file)
    assert (choice.precision, machine.measured, file.exists()) == ("fp32", 0, False)
    assert "loaded" in choice.why
    assert "--measure-precision" in choice.why
    machine.loaded = False
    assert taken(WIDE, file).precision == "bf16"


@pytest.mark.parametrize(
    ("load", "cores", "busy"), [(0.9, 2, False), (1.1, 2, True), (3.0, 8, False)]
)
def test_a_machine_is_loaded_where_half_of_its_cores_are_busy(
    load: float, cores: int, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(processor, "cores", lambda: cores)
    assert processor.loaded() is busy


@pytest.mark.parametrize("text", ["flags : fpu avx2\n", None], ids=["no bf16", "unknown"])
def test_other_cpus_and_narrow_models_take_fp32_unmeasured(
    text: str | None, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gains"
    assert taken(f"{WIDE} --model custom --n-embd 252", file).precision == "fp32"
    assert taken(f"{WIDE} --model custom --n-embd 264", file).precision == "bf16"
    assert machine.measured == 1
    other = tmp_path / "other"
    if text is not None:
        other.write_text(text)
    monkeypatch.setattr(processor, "_INFORMATION", other)
    assert taken(WIDE, file).precision == "fp32"
    assert machine.measured == 1


def test_what_is_asked_for_is_taken_unmeasured(machine: Machine, tmp_path: Path) -> None:
    for name in ("fp32", "bf16", "fp16"):
        assert taken(f"{WIDE} --precision {name}", tmp_path / "gains").precision == name
    assert machine.measured == 0


def test_a_folder_that_cannot_be_written_keeps_nothing(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for count in (1, 2):
        assert taken(WIDE, tmp_path / "file" / "gains").precision == "bf16"
        assert machine.measured == count


@pytest.mark.parametrize("text", ["{", '{"KEY": "fast"}', '{"KEY": -1}', "[]"])
def test_a_damaged_file_is_named_with_a_way_out(
    text: str, machine: Machine, tmp_path: Path
) -> None:
    file = tmp_path / "gains"
    file.write_text(text.replace("KEY", calibration.cpu_key()))
    with pytest.raises(UserError, match=r"gains cannot be read .*remove it, and .*measures anew"):
        taken(WIDE, file)


def test_measuring_on_demand_replaces_what_is_kept(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "gains"
    assert report(configured(WIDE), file).startswith("auto takes bf16 on this CPU: bf16 is 2.00")
    machine.gain = 1.2
    assert report(configured(WIDE), file).startswith("auto takes fp32 on this CPU: bf16 is 1.20")
    machine.gain, machine.loaded = 3.0, True
    assert report(configured(WIDE), file).startswith("auto takes fp32 on this CPU: bf16 is 1.20")
    file.unlink()
    assert "loaded" in report(configured(WIDE), file)


def test_the_measurement_is_a_ratio_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_precision, "_SECONDS", 0.0)
    monkeypatch.setattr(cpu_precision, "_VOCABULARY", 300)
    monkeypatch.setitem(cpu_precision._SHAPE, "n_embd", 24)
    before = torch.get_rng_state()
    with torch.no_grad():
        assert 0.001 < measure_gain(configured("").model) < 1000.0
    assert before.equal(torch.get_rng_state())


@pytest.mark.parametrize(
    ("asked", "recorded", "device", "planned"),
    [
        ("auto", "bf16", "cpu", "bf16"),
        ("auto", "fp32", "cpu", "fp32"),
        ("auto", "fp16", "cuda:0", "kept"),
        ("fp32", "bf16", "cpu", "fp32"),
    ],
)
def test_the_plan_of_a_resumed_run_goes_by_its_record(
    asked: str, recorded: str, device: str, planned: str, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """And not by the measurement that is kept now, which says something else each time."""
    kept = "fp32" if recorded == "bf16" else "bf16"
    monkeypatch.setattr(
        cpu_precision, "kept_choice", lambda *_: Choice(kept, "a test says so", decided=True)
    )
    data, run = tiny.make_data(tmp_path / "data"), tmp_path / "run"
    run.mkdir()
    tokenizer = {"name": "char", "vocab_size": 65}
    record = {
        "effective_batch": 4, "precision": recorded, "device": device,
        "data": {"data_hash": "", "tokenizer": tokenizer},
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(record))
    assert tiny.train(data, run, "--precision", asked, "--plan-json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["precision"] == (kept if planned == "kept" else planned)


@pytest.mark.slow
def test_a_resume_keeps_the_precision_and_the_bits(
    tmp_path: Path, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured when the run began holds, whatever would be chosen now."""
    data = tiny.make_data(tmp_path / "data")
    more = ["--max-steps", "4"]

    def chosen(name: str) -> None:
        choice = Choice(name, "a test says so", decided=True)
        monkeypatch.setattr(checks, "choose", lambda *_, **__: choice)

    chosen("bf16")
    assert tiny.train(data, tmp_path / "whole", *more) == 0
    arm("step.begin:term:3")
    assert tiny.train(data, tmp_path / "halves", *more) != 0
    arm("")
    chosen("fp32")
    assert tiny.train(data, tmp_path / "halves", *more) == 0
    assert tiny.train(data, tmp_path / "other", *more) == 0
    records = {
        name: json.loads((tmp_path / name / "run.json").read_text())
        for name in ("whole", "halves", "other")
    }
    assert [record["precision"] for record in records.values()] == ["bf16", "bf16", "fp32"]
    assert {record["precision_why"] for record in records.values()} == {"a test says so"}
    assert records["halves"]["resumes"]
    assert records["halves"]["determinism"] == "bitwise"
    whole, halves, other = (tiny.checkpoint_bytes(tmp_path / name) for name in records)
    assert halves == whole != other
