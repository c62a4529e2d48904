"""What else two compared rows differ in, and that it stands beside every claim."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from scripts.report import main
from scripts.reports.comparisons import tables_of
from scripts.reports.confounds import confounds
from scripts.reports.rows import Row, rows_of
from scripts.reports.runs import read_run
from tests.support.synthetic import write_run


def confounds_text(row: Row, against: Row) -> str:
    return "; ".join(confounds(row, against))


def rows(folder: Path, *sides: dict[str, Any]) -> list[Row]:
    """Rows of one seed each, in the order given."""
    found = []
    for number, side in enumerate(sides):
        found += rows_of([read_run(write_run(folder / str(number), 1.5, 1, **side))])
    return found


def test_the_options_that_two_optimizers_share(tmp_path: Path) -> None:
    spam, adamw, rmsprop, sgd, muon = rows(
        tmp_path,
        *({"optimizer": name} for name in ("adamwspam", "adamw", "rmsprop", "sgd", "muon")),
    )
    # SPAM's own options (its threshold, its resets) belong to the method itself.
    assert confounds(spam, adamw) == ["beta2 (0.999 against 0.95)", "epsilon (1e-6 against 1e-8)"]
    assert confounds(adamw, spam) == ["beta2 (0.95 against 0.999)", "epsilon (1e-8 against 1e-6)"]
    found = confounds(rmsprop, adamw)
    assert "beta2 (0.99 against 0.95)" in found  # RMSprop calls it alpha
    assert "weight-decay (0.0 against 0.1)" in found
    assert "learning-rate (0.1 against 6e-4)" in confounds(sgd, adamw)
    # The AdamW inside Muon has betas of its own.
    assert "beta2 (0.95 against 0.999)" in confounds(muon, spam)


def test_equal_options_are_not_named_however_they_are_written(tmp_path: Path) -> None:
    pinned = {"ADAMWSPAM_BETA2": "0.950", "ADAMWSPAM_EPS": "0.00000001"}
    spam, adamw = rows(tmp_path, {"optimizer": "adamwspam", "options": pinned}, {})
    assert confounds(spam, adamw) == []
    assert confounds_text(spam, adamw) == ""


@pytest.mark.parametrize(
    ("method", "pattern", "schedule"),
    [
        ("wanda", "by rows against by matrices", "one shot at 50 against gradual, cubic, 10 to 60"),
        (
            "rigl",
            "ERK against by matrices",
            "sparse throughout, moving 0 to 75 against gradual, cubic, 10 to 60",
        ),
    ],
)
def test_how_two_methods_prune(method: str, pattern: str, schedule: str, tmp_path: Path) -> None:
    row, magnitude = rows(tmp_path, {"method": method}, {"method": "magnitude"})
    assert confounds(row, magnitude) == [
        f"pattern ({pattern})",
        f"schedule in % of the run ({schedule})",
    ]


def test_every_pruning_option_that_differs_is_named(tmp_path: Path) -> None:
    options = {
        "SPARSITY_PATTERN": "global",
        "PRUNE_SCOPE": "mlp",
        "PRUNING_SCHEDULE": "linear",
        "PRUNING_END": "0.8",
        "PRUNING_INTERVAL": "7",
    }
    state, magnitude = rows(
        tmp_path, {"method": "state", "options": options}, {"method": "magnitude"}
    )
    assert confounds(state, magnitude) == [
        "pattern (global against by matrices)",
        "prune-scope (mlp against blocks)",
        "pruning-interval (7 against auto)",
        "schedule in % of the run (gradual, linear, 10 to 80 against gradual, cubic, 10 to 60)",
    ]
    step = {"PRUNING_SCHEDULE": "step"}
    once, gradual = rows(
        tmp_path / "once", {"method": "state", "options": step}, {"method": "magnitude"}
    )
    assert "(at once at 10 against gradual, cubic, 10 to 60)" in confounds_text(once, gradual)


def test_a_mask_that_never_moves_is_no_one_shot(tmp_path: Path) -> None:
    rigl, magnitude = rows(tmp_path, {"method": "rigl"}, {"method": "magnitude"})
    still = {k: v for k, v in rigl.options.items() if k not in ("PRUNING_END", "PRUNING_INTERVAL")}
    static = dataclasses.replace(rigl, options=still)
    assert "(sparse throughout, in fixed places against grad" in confounds_text(static, magnitude)
    assert "moving 0 to 75 against sparse throughout, in fixed" in confounds_text(
        rigl, dataclasses.replace(static, options=still | {"PRUNING_METHOD": "set"})
    )


def test_pruning_itself_is_no_confound_of_a_pruned_row_and_its_dense_control(
    tmp_path: Path,
) -> None:
    wanda, dense = rows(tmp_path, {"method": "wanda"}, {})
    assert confounds(wanda, dense) == []


def test_what_rows_are_named_after_is_not_said_again(tmp_path: Path) -> None:
    a, b = rows(tmp_path, {"options": {"WEIGHT_DECAY": "0.3"}}, {})
    assert confounds(a, b) == []


def test_torch_and_threads_are_stated_differences(tmp_path: Path) -> None:
    sides = ({"method": "state", "versions": {"torch": "2.12.0"}, "threads": 4}, {})
    state, dense = rows(tmp_path, *sides)
    assert confounds(state, dense) == ["torch (2.12.0 against 2.13.0)", "threads (4 against 1)"]
    unknown, known = rows(tmp_path / "old", {"versions": None, "device_name": None}, {})
    assert confounds(unknown, known) == [
        "torch (unknown against 2.13.0)",
        "device (not on record for one side)",
    ]


def test_runs_that_differ_seed_by_seed_alike_are_no_confound(tmp_path: Path) -> None:
    """Seed 1 of both rows on one machine, seed 2 of both on another: each pair is alike."""
    runs = []
    for seed, card, threads in ((1, "a card", 1), (2, "another card", 4)):
        for method in ("none", "state"):
            folder = tmp_path / f"{method}{seed}"
            made = write_run(folder, 1.5, seed, method=method, device_name=card, threads=threads)
            runs.append(read_run(made))
    (found,) = tables_of(rows_of(runs))[-1].comparisons
    assert found.outcome == "too few"
    assert found.objections == ()
    assert confounds(found.row, found.against) == []


def test_a_cpu_and_a_gpu_make_two_rows(tmp_path: Path) -> None:
    runs = [
        read_run(write_run(tmp_path / f"{device}{seed}", 1.5, seed, device=device))
        for device in ("cpu", "cuda:0", "cuda:1")
        for seed in ((1, 2) if device == "cpu" else (int(device[-1]),))
    ]
    found = {row.label: row.seeds for row in rows_of(runs)}
    assert found == {"adamw dense (device cpu)": (1, 2), "adamw dense (device cuda)": (0, 1)}


@pytest.mark.slow
def test_it_stands_beside_the_claim_and_in_the_table(tmp_path: Path) -> None:
    for seed in range(1, 6):
        for optimizer, loss in (("adamw", 1.6), ("adamwspam", 1.5)):
            final = loss + 0.02 * seed + 0.001 * ((3 * seed + len(optimizer)) % 5)
            write_run(tmp_path / "runs" / f"{optimizer}{seed}", final, seed, optimizer)
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    both = r"beta2 \(0\.999 against 0\.95\)"
    assert re.search(r"adamwspam dense is better by .*\) \\\[a\\\]\.", text)
    assert re.search(r"\| also differ \|\n(\|[^\n]*\n)+?\|.*\\\[a\\\] \|", text)
    assert re.search(r"\*\*What else differs\*\*\n\n- \\\[a\\\] " + both, text)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("beta2 (0.999 against 0.95)") == 1
