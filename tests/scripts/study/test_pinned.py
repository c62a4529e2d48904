"""A matrix of optimizers says which options one value pins for all, where, and the way out."""

from __future__ import annotations

import shlex
from pathlib import Path

from scripts.study.cells import expand
from scripts.study.pinned import pinned_notes
from scripts.study.spec import add_flags, check_spec, from_config
from scripts.study.spec_yaml import from_yaml

THREE = 'MATRIX_OPTIMIZERS="adamw lion muon"'


def notes(tmp_path: Path, *lines: str, flags: str = "") -> list[str]:
    path = tmp_path / "config"
    path.write_text("".join(f"CONFIG_{line}\n" for line in lines))
    raw = from_config(path)
    add_flags(raw, shlex.split(flags))
    return pinned_notes(check_spec(raw))


def test_a_rate_of_config_is_named_with_its_line_and_the_defaults_it_replaces(
    tmp_path: Path,
) -> None:
    (note,) = notes(tmp_path, THREE, "MODEL_CUSTOM=y", 'LEARNING_RATE="0.01"')
    assert f"--learning-rate 0.01, given in {tmp_path / 'config'}:3; " in note
    assert "adamw 1e-3, lion 3e-4, muon 0.03" in note
    tune = 'MATRIX_TUNE="learning-rate=log:x0.25..x4"'
    assert tune in note
    assert notes(tmp_path, THREE, "MODEL_CUSTOM=y", 'LEARNING_RATE="0.01"', tune) == []


def test_so_are_a_flag_a_decay_and_a_beta(tmp_path: Path) -> None:
    rate, beta = notes(tmp_path, THREE, 'ADAMW_BETA2="0.999"', flags="--learning-rate 1e-4")
    assert "given on the command line" in rate
    assert beta.startswith("--adamw-beta2 0.999, given in")
    assert "is for adamw alone, beside --lion-beta2 0.99: " in beta
    (decay,) = notes(tmp_path, THREE, 'WEIGHT_DECAY="0.2"')
    assert "every optimizer gets --weight-decay 0.2" in decay


def test_a_study_in_a_file_names_its_line(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        "axes: {optimizer: [adamw, lion]}\nseeds: 1\noptions:\n  learning-rate: 1e-4\n"
    )
    (note,) = pinned_notes(check_spec(from_yaml(study)))
    assert f"given in {study}:4; " in note


def test_betas_that_a_study_pins_equal_are_in_their_own_cells(tmp_path: Path) -> None:
    """As docs/matrix.md shows it, in a file and as flags."""
    study = tmp_path / "study.yaml"
    start = "axes: {optimizer: [adamw, adamwspam]}\nseeds: 1\n"
    betas = "options: {adamw-beta2: 0.999, adamwspam-beta2: 0.999}\n"
    study.write_text(start + betas)
    spec = check_spec(from_yaml(study))
    assert pinned_notes(spec) == []
    flags = {cell.axes["OPTIMIZER"]: " ".join(cell.flags) for cell in expand(spec).cells}
    assert "--adamw-beta2 0.999" in flags["adamw"]
    assert "--adamw-beta2" not in flags["adamwspam"]
    study.write_text(start)
    by_flag = from_yaml(study)
    add_flags(by_flag, ["--adamw-beta2", "0.999"])
    assert pinned_notes(check_spec(by_flag)) == []  # adamwspam has it by default
    study.write_text(start + betas.replace("adamwspam-beta2: 0.999", "adamwspam-beta2: 0.99"))
    assert len(pinned_notes(check_spec(from_yaml(study)))) == 2


def test_nothing_is_said_of_one_optimizer_an_axis_or_defaults(tmp_path: Path) -> None:
    rate = 'LEARNING_RATE="0.01"'
    assert notes(tmp_path, 'MATRIX_OPTIMIZERS="adamw"', rate) == []
    assert notes(tmp_path, THREE, rate, 'MATRIX_AXES="learning-rate=1e-3,2e-3"') == []
    assert notes(tmp_path, THREE) == []
