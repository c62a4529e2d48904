"""When a curve reaches the end of another, and what pages say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from gpt2.config.records import from_json
from gpt2.run_dir.records import RunRecord, Summary
from scripts.report import main
from scripts.reports.comparisons import tables_of
from scripts.reports.metrics import Point
from scripts.reports.rows import Row, rows_of
from scripts.reports.runs import Run
from scripts.reports.speedup import speedup, speedups
from tests.support.synthetic import write_run

STEPS = (25, 50, 75)


def row(optimizer: str, losses: dict[int, tuple[float, ...]], sparsities: Any = (0,) * 4) -> Row:
    """Runs of 100 steps with these evaluations by seed, the last of them at the end."""
    runs = []
    for seed, curve in losses.items():
        summary = {
            "val_loss": curve[-1], "steps": 100, "tokens": 5000, "seconds": 20.0,
            "sparsity_asked": sparsities[-1], "sparsity_reached": sparsities[-1],
        }  # fmt: skip
        points = tuple(
            Point(step, val_loss=loss, sparsity=sparsity)
            for step, loss, sparsity in zip((*STEPS, 100), curve, sparsities, strict=True)
        )
        runs.append(
            Run(
                Path(f"{optimizer}{seed}"),
                {"OPTIMIZER": optimizer, "SEED": str(seed)},
                from_json(RunRecord, {"data": {"data_hash": "a"}, "code": "c", "precision": "fp32",
                                      "compiled": False, "effective_batch": 8}),
                from_json(Summary, summary),
                points=points,
            )
        )  # fmt: skip
    (found,) = rows_of(runs)
    return found


CONTROL = row("adamw", {1: (5.0, 4.0, 3.5, 3.0), 2: (5.2, 4.2, 3.7, 3.2)})


def test_the_crossing_is_on_the_line_between_two_evaluations() -> None:
    fast = row("muon", {1: (4.0, 3.2, 2.8, 2.5), 2: (4.2, 3.4, 3.0, 2.7)})
    found = speedup(fast, CONTROL)
    # The means are 4.1, 3.3, 2.9: 3.1 is half-way from step 50 to 75.
    assert found.loss == pytest.approx(3.1)
    assert found.steps == pytest.approx(62.5)
    assert (found.tokens, found.seconds) == pytest.approx((3125.0, 12.5))
    assert found.factor == pytest.approx(1.6)
    # Each seed is as far from its own control: nothing scatters.
    assert (found.low, found.high) == pytest.approx((62.5, 62.5))


def test_the_interval_is_over_seeds_on_the_slope() -> None:
    fast = row("muon", {1: (4.0, 3.2, 2.8, 2.5), 2: (4.2, 3.6, 3.0, 2.7)})
    found = speedup(fast, CONTROL)
    # Means 4.1, 3.4, 2.9; the slope is 0.5 in 25 steps, the crossing at 50 + 0.6 x 25.
    assert found.steps == pytest.approx(65.0)
    gaps = [0.4 * 3.2 + 0.6 * 2.8 - 3.0, 0.4 * 3.6 + 0.6 * 3.0 - 3.2]
    late = [gap * 25 / 0.5 for gap in gaps]
    deviation = abs(late[0] - late[1]) / 2**0.5
    reach = float(stats.t.ppf(0.975, 1)) * deviation / 2**0.5
    assert found.high == pytest.approx(65.0 + reach)
    assert found.low == pytest.approx(65.0 - reach)


def test_a_row_that_ends_higher_never_reaches_it() -> None:
    slow = row("sgd", {1: (6.0, 5.0, 4.5, 4.0), 2: (6.0, 5.0, 4.5, 4.0)})
    found = speedup(slow, CONTROL)
    assert (found.steps, found.tokens, found.factor) == (None, None, None)


def test_the_end_itself_is_the_slowest_way_to_reach_it() -> None:
    found = speedup(CONTROL, CONTROL)
    assert (found.steps, found.factor) == (100.0, 1.0)


def test_what_is_not_yet_as_sparse_does_not_count() -> None:
    """At step 50 the loss is low enough, but half of the zeros are missing."""
    pruned = row("muon", {1: (3.5, 2.9, 3.3, 2.9)}, sparsities=(0.0, 0.25, 0.5, 0.5))
    found = speedup(pruned, row("adamw", {1: (5.0, 4.0, 3.5, 3.1)}))
    assert found.steps == pytest.approx(87.5)


def test_only_what_is_compared_has_a_speed_up() -> None:
    fast = row("muon", {1: (4.0, 3.2, 2.8, 2.5), 2: (4.2, 3.4, 3.0, 2.7)})
    (table,) = tables_of([fast, CONTROL])
    (found,) = speedups(table.comparisons)
    # Neither is a control: the lower one reaches the end of the other.
    assert (found.row.optimizer, found.control.optimizer) == ("muon", "adamw")
    unlike = row("muon", {3: (4.0, 3.2, 2.8, 2.5)})
    (refused,) = tables_of([unlike, CONTROL])
    assert list(speedups(refused.comparisons)) == []


def horizons(folder: Path, lengths: tuple[int, ...], seeds: int = 5) -> None:
    """Write dense runs of two optimizers at these lengths; Muon is as 1.5 times the tokens."""
    for seed in range(1, seeds + 1):
        for optimizer, better in (("adamw", 1.0), ("muon", 1.5)):
            for steps in lengths:
                loss = 40.0 * (better * steps * 512.0) ** -0.3 + 1.2 + 0.01 * seed
                write_run(
                    folder / f"{optimizer}{steps}-{seed}", loss, seed, optimizer,
                    options={"MAX_STEPS": str(steps)}, steps=steps, tokens=512 * steps,
                )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lengths", "said"),
    [((100, 200, 400), "the fit is untested"), ((100, 200, 300, 400), "Its residual is 0.0000")],
)
def test_a_study_of_horizons_has_its_factor(
    lengths: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    horizons(tmp_path / "runs", lengths)
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    lines = [json.loads(x) for x in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    factors = [line["factor"] for line in lines if line["kind"] == "efficiency"]
    assert [f["tokens"] for f in factors] == [512 * steps for steps in lengths]
    for found in factors:
        assert found["factor"] == pytest.approx(1.5, rel=1e-3)
        assert found["seeds"] == 5
    # Rows of one length are compared, and no others.
    pairs = [line for line in lines if line["kind"] == "comparison"]
    assert len(pairs) == len(lengths)
    assert all(line["difference"] for line in pairs)
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "Data efficiency" in text
        assert said in text
    assert "1.500" in text


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(100, 400), (100, 200, 300)])
def test_too_few_or_too_close_horizons_have_none(lengths: tuple[int, ...], tmp_path: Path) -> None:
    horizons(tmp_path / "runs", lengths)
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    assert "Data efficiency" not in (tmp_path / "out" / "report.html").read_text()
