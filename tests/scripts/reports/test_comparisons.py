"""Which rows are compared with which, which pairs are refused, and what the tests claim."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gpt2.config.options import Options
from scripts.report import main
from scripts.reports.comparisons import tables_of
from scripts.reports.rows import rows_of
from scripts.reports.runs import Run
from scripts.reports.statistics import holm
from tests.support.reports import lines, runs_of
from tests.support.synthetic import write_run

pytestmark = pytest.mark.slow


def test_planted_differences_are_found_and_equal_ones_are_not_claimed(matrix: Path) -> None:
    outcomes = {(c["row"], c["against"]): c["outcome"] for c in lines(matrix, "comparison")}
    assert outcomes["adamw + state", "adamw + magnitude"] == "better"
    assert outcomes["adamwspam + state", "adamwspam + magnitude"] == "better"
    assert outcomes["adamw + magnitude", "adamw dense"] == "worse"
    assert outcomes["adamwspam dense", "adamw dense"] == "undecided"
    assert len(outcomes) == 1 + 2 * (3 + 2)
    text = (matrix / "report.md").read_text()
    assert re.search(r"Against adamw \+ magnitude: state is better by 0\.05\d\d .* nats", text)
    assert "cannot be told apart" in text


def test_holm_is_over_the_page(matrix: Path) -> None:
    found = lines(matrix, "comparison")
    assert {c["sparsity_asked"] for c in found} == {0.0, 0.5}
    assert [c["p_holm"] for c in found] == pytest.approx(holm([c["p"] for c in found]))
    smallest = min(found, key=lambda c: c["p"])
    assert smallest["p_holm"] == pytest.approx(len(found) * smallest["p"])
    text = (matrix / "report.html").read_text()
    assert "11 comparisons tested on this page, 10 in this table" in text
    assert "Of 11 comparisons tested, " in text


def pair(tmp_path: Path, **changes: Any) -> list[Run]:
    """Write dense runs and pruned ones that differ from them in `changes`, too."""
    for seed in range(1, 6):
        write_run(tmp_path / f"dense-{seed}", 1.5 + seed / 100, seed)
        write_run(tmp_path / f"state-{seed}", 1.7 + seed / 99, seed, method="state", **changes)
    return runs_of(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": 99}, "tokens differ (99 against 51,200)"),
        ({"steps": 99}, "steps differ (99 against 100)"),
        ({"data": {"data_hash": "b" * 64}}, "data differs (bbbbbbbb against aaaaaaaa)"),
        ({"code": "e" * 64}, "code differs (eeeeeeee against cccccccc)"),
        ({"code": None}, "code is not on record"),
        ({"precision": "bf16"}, "precision differs (bf16 against fp32)"),
        ({"compiled": True}, "compiled differs (True against False)"),
        ({"effective_batch": 16}, "effective batch differs (16 against 8)"),
        ({"device": "cpu"}, "device differs (cpu against cuda)"),
        ({"device_name": "another card"}, "device differs (another card against a card)"),
        ({"sparsity_reached": 0.7}, "adamw + state missed its sparsity by 20.00%"),
    ],
)
def test_unequal_runs_are_not_compared(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    assert tables_of(rows_of(pair(tmp_path / "good")))[-1].comparisons[0].outcome == "worse"
    (found,) = tables_of(rows_of(pair(tmp_path / "odd", **changes)))[-1].comparisons
    assert found.outcome == "refused"
    assert any(reason in objection for objection in found.objections), found.objections
    assert found.difference is None


def test_a_refused_pair_is_flagged_on_every_page(tmp_path: Path) -> None:
    pair(tmp_path / "runs", code="e" * 64)
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text()
        assert text.count("No claim: these rows cannot be compared: code differs") == 1
        assert text.count("code differs") == 1


def test_each_variant_has_its_own_controls(tmp_path: Path) -> None:
    for decay in ("0.1", "0.2"):
        for method in ("none", "magnitude", "state"):
            name = f"{method}-{decay}"
            options = {"WEIGHT_DECAY": decay}
            write_run(tmp_path / name, 1.5, method=method, options=options)
    found = tables_of(rows_of(runs_of(tmp_path)))[-1].comparisons
    assert len(found) == 6
    for c in found:
        assert c.row.options["WEIGHT_DECAY"] == c.against.options["WEIGHT_DECAY"]


@pytest.mark.parametrize("method", sorted(set(Options().members("PRUNING_METHOD")) - {"none"}))
def test_every_method_has_the_dense_run_and_magnitude_as_controls(
    method: str, tmp_path: Path
) -> None:
    for optimizer in ("adamw", "adamwprune"):
        for each in {"none", "magnitude", method}:
            write_run(tmp_path / f"{optimizer}-{each}", 1.5, 1, optimizer, each)
    found = tables_of(rows_of(runs_of(tmp_path)))[-1].comparisons
    pairs = {(c.row.label, c.against.label) for c in found}
    for optimizer in ("adamw", "adamwprune"):
        assert (f"{optimizer} + {method}", f"{optimizer} dense") in pairs
        reference = (f"{optimizer} + {method}", f"{optimizer} + magnitude")
        assert (reference in pairs) == (method != "magnitude")


def test_a_pruned_run_without_a_dense_control_is_flagged(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / "runs" / str(seed), 1.5, seed, method="state")
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    assert "has no dense control" in (tmp_path / "out" / "report.html").read_text()


def test_any_runs_compare(tmp_path: Path) -> None:
    for seed in range(1, 6):
        for method, loss in (("state", 1.5), ("random", 1.7)):
            name = f"{method}{seed}"
            write_run(tmp_path / name, loss + seed / 1000 * len(name), seed, method=method)
    (found,) = tables_of(rows_of(runs_of(tmp_path)))[0].comparisons
    assert (found.row.label, found.outcome) == ("adamw + state", "better")


def test_the_page_tests_equivalence_and_pools_where_it_is_asked(
    matrix: Path, tmp_path: Path
) -> None:
    to = tmp_path / "out"
    words = ["--out", str(matrix), "--to", str(to), "--pooled", "--equivalence", "0.01"]
    assert main(words) == 0
    found = {(c["row"], c["against"]): c for c in lines(to, "comparison")}
    alike = found["adamw + movement", "adamw + magnitude"]
    assert alike["outcome"] == "undecided"
    assert alike["equivalence"]["margin"] == 0.01
    assert max(alike["equivalence"]["p_worse"], alike["equivalence"]["p_better"]) <= 0.05
    assert alike["difference"]["freedom"] == 7 * 4  # eight rows of five seeds
    text = (to / "report.md").read_text().replace("\xa0", " ")
    assert "Equivalent to adamw + magnitude within 0.01 nats: movement (p " in text
    assert "The pooled standard deviation of adamw dense and 7 other rows is 0." in text
    assert "within 0.01 (p " in (to / "report.html").read_text().replace("\xa0", " ")
    # Neither is in a report of which it was not asked.
    assert all(c["equivalence"] is None for c in lines(matrix, "comparison"))
    assert "pooled" not in (matrix / "report.md").read_text()


def test_a_page_shows_when_a_row_reaches_its_control(matrix: Path) -> None:
    found = {(s["row"], s["control"]): s for s in lines(matrix, "speedup")}
    assert len(found) == 11
    # It ends 0.05 lower, but is as sparse as that at the end alone.
    early = found["adamw + state", "adamw + magnitude"]
    assert (early["steps"], early["factor"]) == (100.0, 1.0)
    assert found["adamw + magnitude", "adamw dense"]["steps"] is None
    text = (matrix / "report.html").read_text()
    assert "Speed-up to the control&rsquo;s final loss" in text
    never = sum(s["steps"] is None for s in found.values() if "dense" not in s["row"])
    assert never > 5  # more names than a sentence holds
    assert f"{never} of 10 pairs never reached the final loss of the control." in text
