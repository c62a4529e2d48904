"""Which runs make one row, and what rows are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.reports.comparisons import tables_of
from scripts.reports.rows import rows_of
from tests.support.reports import runs_of
from tests.support.synthetic import write_run

pytestmark = pytest.mark.slow


def test_how_a_step_is_divided_and_logged_makes_no_other_row(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1.5, 1)
    options = {"BATCH_SIZE": "16", "GRADIENT_ACCUMULATION": "2", "LOG_INTERVAL": "3"}
    write_run(tmp_path / "b", 1.6, 2, options=options)
    (row,) = rows_of(runs_of(tmp_path))
    assert row.seeds == (1, 2)


def test_seeds_that_differ_in_what_changes_no_bit_are_a_pair(tmp_path: Path) -> None:
    """These two are free at a resume, so they cannot make another row either."""
    for seed in range(1, 6):
        for method, loss in (("magnitude", 1.54), ("state", 1.50)):
            options = {"EVAL_BATCH_SIZE": str(4 * seed)}
            if seed == 2:
                options["ACTIVATION_CHECKPOINTING"] = "full"
            name = f"{method}{seed}"
            final = loss + 0.02 * seed + 0.0007 * ((3 * seed + len(method)) % 5)
            write_run(tmp_path / name, final, seed, method=method, options=options)
    rows = rows_of(runs_of(tmp_path))
    assert [row.seeds for row in rows] == [(1, 2, 3, 4, 5)] * 2
    (found,) = tables_of(rows)[0].comparisons
    assert (found.row.label, found.outcome) == ("adamw + state", "better")


def test_with_rollbacks_the_checkpoint_interval_makes_another_row(tmp_path: Path) -> None:
    for seed, spike in ((1, "off"), (2, "off"), (3, "rollback"), (4, "rollback")):
        options = {"SPIKE": spike, "CHECKPOINT_INTERVAL": str(10 * seed)}
        write_run(tmp_path / f"{seed}", 1.5, seed, options=options)
    assert [row.seeds for row in rows_of(runs_of(tmp_path))] == [(1, 2), (3,), (4,)]


def test_a_number_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1.5, 1, options={"WEIGHT_DECAY": "0.05"})
    write_run(tmp_path / "b", 1.6, 2, options={"WEIGHT_DECAY": "5e-2"})
    write_run(tmp_path / "c", 1.6, 2, options={"WEIGHT_DECAY": "0.06"})
    assert [row.seeds for row in rows_of(runs_of(tmp_path))] == [(1, 2), (2,)]


def test_rows_of_one_name_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    for name, score in (("a", "fisher"), ("b", "coherence")):
        write_run(tmp_path / name, 1.5, method="state", options={"STATE_SCORE": score})
    labels = [row.label for row in rows_of(runs_of(tmp_path))]
    assert labels == ["adamw + state (state-score coherence)", "adamw + state (state-score fisher)"]


def test_the_earliest_of_a_seed_counts_and_the_others_are_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a-later", 1.0, 1, start="2026-12-01T00:00:00+00:00")
    write_run(tmp_path / "b-first", 2.0, 1)
    (row,) = rows_of(runs_of(tmp_path))
    assert [run.name for run in row.runs] == ["b-first"]
    assert [run.name for run in row.repeats] == ["a-later"]
