"""The first lines of a report: the answer, by how much, and how sure."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.reports.content import Report, compose
from scripts.reports.runs import read_run
from tests.support.synthetic import write_run


def report_of(
    folder: Path, losses: dict[tuple[str, str, float], float], seeds: int = 5, scatter: float = 1e-3
) -> Report:
    """A report of rows, by (optimizer, method, sparsity), with these mean losses."""
    for number, ((optimizer, method, sparsity), loss) in enumerate(losses.items()):
        for seed in range(1, seeds + 1):
            final = loss + 0.02 * seed + scatter * ((3 * seed + number) % 5)
            name = folder / f"{number}-{seed}"
            options = {} if method == "none" else {"SPARSITY_PATTERN": "layer"}
            write_run(name, final, seed, optimizer, method, sparsity, options=options)
    return compose("runs", [read_run(path) for path in sorted(folder.iterdir())])


def said(report: Report) -> str:
    return " ".join(report.headlines).replace("\xa0", " ")


def test_the_better_optimizer_is_named_with_its_lead(tmp_path: Path) -> None:
    report = report_of(tmp_path, {("adamw", "none", 0.0): 1.6, ("muon", "none", 0.0): 1.5})
    assert re.fullmatch(
        r"muon dense is better than adamw dense by 0\.1\d{3} . 0\.00\d\d nats per token "
        r"\(p < 0\.0001\)\.",
        said(report),
    )
    assert report.tally.startswith("Of 1 comparison tested, 1 shows a difference. The chance ")


def test_rows_that_cannot_be_told_apart_are_no_answer(tmp_path: Path) -> None:
    rows = {("adamw", "none", 0.0): 1.6, ("muon", "none", 0.0): 1.61}
    report = report_of(tmp_path, rows, scatter=0.05)
    assert re.fullmatch(
        r"muon dense and adamw dense cannot be told apart "
        r"\(.0\.\d{4} . 0\.\d{4} nats per token\)\.",
        said(report),
    )
    assert (
        report.tally == "Of 1 comparison tested, none shows a difference; 1 cannot be told apart."
    )


def test_each_sparsity_has_its_answer(tmp_path: Path) -> None:
    at_50 = {"magnitude": 1.6, "state": 1.5, "random": 1.7}
    at_90 = {"magnitude": 1.6, "state": 1.5995, "random": 1.8}
    report = report_of(
        tmp_path,
        {
            **{("adamw", method, 0.5): loss for method, loss in at_50.items()},
            **{("adamw", method, 0.9): loss for method, loss in at_90.items()},
        },
    )
    first, second = report.headlines
    assert first.startswith("At 50 % sparsity, adamw + state is better than magnitude by 0.1")
    # The lowest is compared with magnitude alone: random loses to magnitude, not to it.
    assert second.startswith("At 90 % sparsity, adamw + ")
    assert "cannot be told apart" in second


def test_dense_controls_alone_tell_the_price_of_pruning(tmp_path: Path) -> None:
    rows = {("adamw", "none", 0.0): 1.4, ("adamw", "magnitude", 0.5): 1.5}
    assert said(report_of(tmp_path, rows)).startswith(
        "At 50 % sparsity, adamw + magnitude is worse than adamw dense by 0."
    )


def test_where_no_test_is_about_the_lowest_row_the_largest_difference_is_told(
    tmp_path: Path,
) -> None:
    """Only what is sparse from the start is compared with the static mask; wanda has no control."""
    losses = {"wanda": 1.4, "rigl": 1.5, "set": 1.55, "static": 1.6}
    report = report_of(tmp_path, {("adamw", name, 0.5): loss for name, loss in losses.items()})
    assert re.match(
        r"At 50 % sparsity, adamw \+ rigl is better than static by 0\.\d{4} . 0\.\d{4} nats per "
        r"token \(p [<=] [\d.]+\); 1 more of 2 comparisons shows a difference\.",
        said(report),
    )


def test_a_long_list_of_rows_has_its_ends_alone(tmp_path: Path) -> None:
    losses = {"magnitude": 1.6, "movement": 1.61, "random": 1.9, "state": 1.55, "wanda": 1.5}
    rows = {("adamw", "none", 0.0): 1.4, **{("adamw", n, 0.5): v for n, v in losses.items()}}
    rows["adamw", "sparsegpt", 0.5] = 1.45
    words = " ".join(text for part in report_of(tmp_path, rows).verdict for text in part.sentences)
    assert re.search(
        r"Worse than adamw dense: 6 rows, from sparsegpt \(.*\) to random \(\+0\.5", words
    )
