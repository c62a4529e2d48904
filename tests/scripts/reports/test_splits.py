"""Which split a report quotes: test where all reported runs have it; tuning stays on validation."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from scripts.reports.content import Report, compose
from scripts.reports.markdown import as_markdown
from scripts.reports.page import as_page
from scripts.reports.runs import read_run
from scripts.reports.splits import quoted_split, split_note
from scripts.reports.text import COLUMNS, as_csv, as_json_lines
from tests.support.synthetic import write_run

SEEDS = range(1, 6)


def report(folder: Path) -> Report:
    return compose("a report", [read_run(path) for path in sorted(folder.iterdir())])


def write(folder: Path, without: tuple[int, ...] = (), everywhere: bool = True) -> Path:
    """Write runs of two optimizers: adamw wins on validation, lion on test."""
    for seed in SEEDS:
        scatter = seed / 100 + (seed % 3) / 1000
        for name, val, test in (("adamw", 1.50, 1.70), ("lion", 1.60, 1.65)):
            tested = everywhere and not (name == "lion" and seed in without)
            more = {"test_loss": test + seed / 100} if tested else {}
            write_run(folder / f"{name}{seed}", val + scatter, seed, name, **more)
    return folder


def test_all_that_is_said_is_of_the_test_split(tmp_path: Path) -> None:
    found = report(write(tmp_path))
    assert found.split == "test"
    (table,) = found.tables
    (comparison,) = table.comparisons
    assert (comparison.row.label, comparison.outcome) == ("lion dense", "better")
    assert comparison.difference is not None
    assert comparison.difference.mean == pytest.approx(-0.05)
    text = as_markdown(found)
    assert "Losses are of the test split" in text
    assert "Lowest mean: lion dense, 1.6800" in text
    assert "test loss" in text
    assert "1.5312" not in text  # adamw's validation loss
    page = as_page(found)
    assert "over the whole test split" in page
    assert "Final test loss minus that of the control" in page
    assert "validation loss (nats per token)" in page  # the curves


@pytest.mark.parametrize(
    ("without", "everywhere", "which"),
    [
        ((2,), True, "1 of 10 runs has"),
        ((1, 2), True, "2 of 10 runs have"),
        ((), False, "the runs"),
    ],
)
def test_one_run_without_a_test_loss_makes_it_validation(
    without: tuple[int, ...], everywhere: bool, which: str, tmp_path: Path
) -> None:
    found = report(write(tmp_path, without, everywhere))
    assert found.split == "validation"
    assert which in found.split_note
    assert found.tables[0].comparisons[0].outcome == "worse"  # lion, on validation
    text = as_markdown(found)
    assert "Losses are of the validation split" in text
    assert "validation loss" in text


def test_nothing_is_said_of_losses_where_there_are_none(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", None))
    assert (quoted_split([run]), split_note([run])) == ("validation", "")


def test_rates_are_chosen_on_validation_whatever_the_test_split_says(tmp_path: Path) -> None:
    for rate, val, test in (("1e-3", 1.2, 1.9), ("2e-3", 1.3, 1.1)):
        for seed in (11, 12):
            name, options = f"{rate}-{seed}", {"LEARNING_RATE": rate}
            write_run(tmp_path / name, val, seed, options=options, test_loss=test)
    write_run(tmp_path / "one", 1.5, 1, options={"LEARNING_RATE": "1e-3"}, test_loss=1.6)
    found = report(tmp_path)
    assert found.tuning is not None
    assert [trial.rate for trial in found.tuning.trials if trial.chosen] == ["1e-3"]
    assert found.rows[0].loss.mean == 1.6


def test_the_data_files_hold_both_losses_and_say_which_counts(tmp_path: Path) -> None:
    found = report(write(tmp_path))
    assert COLUMNS[-6:-3] == ("test_loss", "test_perplexity", "test_bits_per_byte")
    lines = list(csv.DictReader(as_csv(found).splitlines()))
    assert {line["test_loss"] for line in lines if line["run"] == "lion1"} == {"1.66"}
    assert {line["val_loss"] for line in lines if line["run"] == "lion1"} == {"1.611"}
    kinds = [json.loads(line) for line in as_json_lines(found).splitlines()]
    (row,) = [line for line in kinds if line["kind"] == "row" and line["row"] == "lion dense"]
    assert row["split"] == "test"
    assert row["loss"] == row["test_loss"]
    assert row["val_loss"]["mean"] == pytest.approx(1.6312)
