"""MATRIX_TUNE: the search space, its trials, equal budgets for every row, and what is chosen."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import pytest

from gpt2.config.errors import UserError
from scripts.report import main
from scripts.reports.content import Report
from scripts.reports.output import report_of_matrix
from scripts.reports.page import as_page
from scripts.reports.tuning_cells import widths_grid
from scripts.study.cells import Matrix, expand
from scripts.study.rates import choose_rate, numbers_in, trial_text
from scripts.study.search import Dimension, dimension, draw
from scripts.study.spec import check_spec, from_config
from scripts.study.spec_yaml import from_yaml
from scripts.study.tuning import choose, tried
from tests.support.small_cells import cell_record
from tests.support.synthetic import write_run

pytestmark = pytest.mark.slow

TUNE = 'MATRIX_TUNE="learning-rate=log:1e-3..1e-2; weight-decay=0.03,0.1,0.3"'
SEEDS = ('MATRIX_SEEDS="1 2"', 'MATRIX_TUNING_SEEDS="11"', "MATRIX_TUNE_TRIALS=4")
ROWS = (
    'MATRIX_OPTIMIZERS="adamw lion"',
    'MATRIX_PRUNING_METHODS="none magnitude"',
    'MATRIX_SPARSITIES="0.5 0.9"',
)
OPTIONS = ("learning-rate", "weight-decay")


def made(tmp_path: Path, *lines: str) -> Matrix:
    path = tmp_path / "config"
    path.write_text("".join(f"CONFIG_{line}\n" for line in lines))
    return expand(check_spec(from_config(path)))


def refusal(tmp_path: Path, *lines: str) -> str:
    with pytest.raises(UserError) as error:
        made(tmp_path, *lines)
    return "\n".join(error.value.messages)


def test_ranges_and_lists_are_read() -> None:
    logs = dimension("LEARNING_RATE", "log:1e-3..1e-1")
    assert [logs.value(share, None) for share in (0.0, 0.5, 0.75)] == ["0.001", "0.01", "0.03162"]
    assert dimension("PRUNING_END", "0.2..0.6").value(0.25, None) == "0.3"
    times = dimension("LEARNING_RATE", "log:x0.25..x4")
    assert [times.value(share, "2e-3") for share in (0.0, 0.5)] == ["0.0005", "0.002"]
    listed = Dimension("WEIGHT_DECAY", "", values=("0", "0.1", "0.3"))
    assert [listed.value(share, None) for share in (0.0, 0.34, 0.999)] == ["0", "0.1", "0.3"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.1", "two values or more"),
        ("0.1,,0.3", "two values or more"),
        ("lg:1..2", "is not a range"),
        ("1..2..3", "is not a range"),
        ("1..1e999", "is not a range"),
        ("2..1", "lower end comes first"),
        ("log:0..1", "needs values above 0"),
        ("x0.5..2", "both ends"),
    ],
)
def test_what_is_no_range_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        dimension("LEARNING_RATE", text)


def test_trials_are_spread_evenly_and_fixed_by_their_seed() -> None:
    points = draw(2, 9, seed=5)
    assert points == draw(2, 9, seed=5) != draw(2, 9, seed=6)
    # A Halton sequence has one point in each half (base 2) and each third (base 3) of its rounds.
    for first in range(0, 8, 2):
        assert {int(2 * share) for share, _ in points[first : first + 2]} == {0, 1}
    for first in range(0, 9, 3):
        assert {int(3 * share) for _, share in points[first : first + 3]} == {0, 1, 2}
    assert all(0.0 <= share < 1.0 for share in itertools.chain(*points))


def test_every_row_has_the_same_trials_before_anything_is_reported(tmp_path: Path) -> None:
    matrix = made(tmp_path, TUNE, *SEEDS, *ROWS)
    first = list(itertools.takewhile(lambda cell: cell.tuning, matrix.cells))
    assert {cell.seed for cell in first} == {11}
    budgets = Counter(
        (c.axes["OPTIMIZER"], c.axes["PRUNING_METHOD"], c.axes.get("TARGET_SPARSITY"))
        for c in first
    )
    assert set(budgets.values()) == {4}
    assert len(budgets) == 2 * 3
    points = {(c.axes["LEARNING_RATE"], c.axes["WEIGHT_DECAY"], c.axes["OPTIMIZER"]) for c in first}
    assert len(points) == 2 * 4
    assert all(1e-3 <= float(c.axes["LEARNING_RATE"]) <= 1e-2 for c in first)
    assert len(matrix.cells) == 6 * 4 * (1 + 2)
    assert {cell.kind for cell in matrix.cells} == {
        f"{optimizer}-{method}"
        for optimizer in ("adamw", "lion")
        for method in ("none", "magnitude")
    }
    assert len({cell.name for cell in matrix.cells}) == len(matrix.cells)


def test_a_multiple_is_of_each_optimizers_own_default(tmp_path: Path) -> None:
    tune = 'MATRIX_TUNE="learning-rate=log:x0.5..x2"'
    more = ("MODEL_CUSTOM=y", "MATRIX_TUNE_TRIALS=3", 'MATRIX_PRUNING_METHODS="none"')
    cells = made(tmp_path, tune, *SEEDS[:2], ROWS[0], *more).cells
    rates: dict[str, set[float]] = {}
    for cell in cells:
        rates.setdefault(cell.axes["OPTIMIZER"], set()).add(float(cell.axes["LEARNING_RATE"]))
    assert sorted(rates["adamw"]) == pytest.approx(
        sorted(rate * 1e-3 / 3e-4 for rate in rates["lion"]), rel=1e-3
    )
    assert 5e-4 <= min(rates["adamw"]) < max(rates["adamw"]) <= 2e-3


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (('MATRIX_TUNE="learning-rat=1,2"',), "did you mean learning-rate"),
        (('MATRIX_TUNE="learning-rate"',), "it has no values"),
        (('MATRIX_TUNE="learning-rate=1..x2"',), "both ends"),
        ((TUNE, 'MATRIX_AXES="learning-rate=1e-3,2e-3"'), "an axis, or a list of its own"),
        ((TUNE, 'MATRIX_TUNING_SEEDS=""'), "MATRIX_TUNE needs a seed to tune with"),
        ((TUNE, 'MATRIX_TUNING_SEEDS="1"'), "seed 1 is reported, too"),
        (('MATRIX_TUNE="adamw-beta2=0.9..1.5"',), "MATRIX_TUNE: adamw"),
        (('MATRIX_TUNE="muon-momentum=0.9,0.95"',), "muon-momentum has no effect in any cell"),
    ],
)
def test_wrong_search_spaces_are_refused(lines: tuple[str, ...], why: str, tmp_path: Path) -> None:
    assert why in refusal(tmp_path, 'MATRIX_OPTIMIZERS="adamw"', 'MATRIX_SEEDS="1"', *lines)


def test_a_study_in_a_file_can_be_tuned(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        "axes: {optimizer: [adamw, lion]}\nseeds: 1\ntuning-seeds: 7\ntune-trials: 3\n"
        "tune: {learning-rate: 'log:1e-3..1e-2', weight-decay: [0.03, 0.1]}\n"
    )
    matrix = expand(check_spec(from_yaml(study)))
    assert [d.text for d in matrix.spec.tune] == ["log:1e-3..1e-2", "0.03,0.1"]
    assert len(matrix.cells) == 2 * 3 * 2


def test_the_trial_of_the_lowest_mean_is_chosen_for_every_pruner() -> None:
    cells, losses = [], {}
    for method, by_trial in {
        "none": {("1e-3", "0.1"): [1.0, 2.2], ("2e-3", "0.3"): [1.5, 1.5]},
        "magnitude": {("1e-3", "0.1"): [1.0, 1.9], ("2e-3", "0.3"): [1.0, math.inf]},
    }.items():
        for (rate, decay), found in by_trial.items():
            axes = dict(zip(OPTIONS, (rate, decay), strict=True)) | {"pruning-method": method}
            for seed, loss in enumerate(found, start=11):
                name = f"{method}-{rate}-{seed}"
                cells.append(cell_record(name=name, axes=axes, seed=seed, tuning=True))
                losses[name] = loss
    chosen = {one.group["pruning-method"]: one.rate for one in choose(cells, losses, OPTIONS)}
    assert chosen == {
        "none": "learning-rate 2e-3, weight-decay 0.3",
        "magnitude": "learning-rate 1e-3, weight-decay 0.1",
    }
    assert tried(cells[0].axes, OPTIONS) == "learning-rate 1e-3, weight-decay 0.1"


def test_of_equal_trials_the_smaller_values_win() -> None:
    texts = [trial_text(dict(zip(OPTIONS, v, strict=True))) for v in (("2", "1"), ("1", "9"))]
    assert choose_rate({text: {11: 1.0} for text in texts}) == texts[1]
    assert numbers_in(texts[0]) == (2.0, 1.0)


def tuned_matrix(folder: Path) -> Path:
    """Write a matrix of one optimizer, dense and magnitude, tuned by four trials of two options."""
    trials = [("1e-3", "0.1"), ("2e-3", "0.3"), ("4e-3", "0"), ("8e-3", "0.1")]
    best = {"none": 1, "magnitude": 3}
    for method, winner in best.items():
        for number, (rate, decay) in enumerate(trials):
            options = {"LEARNING_RATE": rate, "WEIGHT_DECAY": decay}
            loss = 1.5 + 0.1 * abs(number - winner)
            for seed in (11, *range(1, 6)):
                if seed == 11 or number == winner:
                    name = f"{method}-{number}-seed{seed}"
                    write_run(
                        folder / "cells" / name, loss + seed / 1e3, seed, method=method,
                        options=options,
                    )  # fmt: skip
    space = {"learning-rate": "log:1e-3..1e-2", "weight-decay": "0,0.1,0.3"}
    spec = {"name": "tuned", "cells": [], "tuning": {"seeds": [11], "space": space}}
    (folder / "matrix.json").write_text(json.dumps(spec))
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return report_of_matrix(tuned_matrix(tmp_path_factory.mktemp("tuned")), None)


def test_the_report_repeats_the_choice_and_reports_nothing_else(report: Report) -> None:
    assert report.tuning is not None
    chosen = {trial.row: trial.rate for trial in report.tuning.trials if trial.chosen}
    assert chosen == {
        "adamw dense": "learning-rate 2e-3, weight-decay 0.3",
        "adamw + magnitude 0.5": "learning-rate 8e-3, weight-decay 0.1",
    }
    assert {row.seeds for row in report.rows} == {(1, 2, 3, 4, 5)}
    assert len(report.reported) == 2 * 5


def test_rows_tuned_apart_are_compared_though_their_rates_differ(report: Report) -> None:
    (found,) = report.tables[-1].comparisons
    assert (found.row.label, found.against.label) == ("adamw + magnitude", "adamw dense")
    assert found.row.options["LEARNING_RATE"] != found.against.options["LEARNING_RATE"]
    assert found.outcome != "refused"
    (told,) = report.legend.sentences
    assert "learning-rate, tuned for each (8e-3 against 2e-3)" in told
    assert "weight-decay, tuned for each (0.1 against 0.3)" in told
    assert not any("no dense control" in text for text in report.remarks)


def test_edges_and_the_width_of_the_valley_are_said(report: Report) -> None:
    assert report.tuning is not None
    remarks = "\n".join(report.tuning.remarks)
    assert "same number of runs and tokens" in remarks
    assert "adamw + magnitude 0.5: the best rate, 8e-3, is at the edge" in remarks
    assert "adamw dense: the best weight-decay, 0.3, is at the edge" in remarks
    assert "adamw dense: the best rate" not in remarks
    widths = {line[0]: line for line in widths_grid(report.rate_curves).lines}
    assert widths["adamw dense"][2:] == ("0.002", "1.5110", "no other", "1", "no")
    assert widths["adamw + magnitude 0.5"][-1] == "highest"


def test_the_page_draws_loss_against_rate(report: Report) -> None:
    page = as_page(report)
    assert "Loss against learning rate" in page
    assert "adamw dense, learning-rate 2e-3, weight-decay 0.3: 1.5110, chosen" in page
    assert "Every row runs with its best trial of learning-rate and weight-decay" in page


@pytest.mark.slow
def test_the_report_of_a_tuned_matrix_is_written(tmp_path: Path) -> None:
    folder = tuned_matrix(tmp_path)
    assert main(["--out", str(folder)]) == 0
    assert "| adamw dense | 2e-3 | 0.3 | 1.5110 | 1.5110 | chosen |" in (
        folder / "report.md"
    ).read_text().replace("\\", "")
