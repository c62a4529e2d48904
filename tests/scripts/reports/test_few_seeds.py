"""Differences of fewer than five seeds: how large they are so far, and why they are no claim."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.reports.markdown import as_markdown
from scripts.reports.output import verdict_lines
from tests.scripts.reports.test_headline import report_of, said


def test_a_large_difference_of_few_seeds_is_told_with_why_it_is_no_claim(tmp_path: Path) -> None:
    rows = {("adamw", "none", 0.0): 1.6, ("muon", "none", 0.0): 1.5}
    report = report_of(tmp_path / "three", rows, seeds=3)
    found = r"(.0\.\d{4}) nats per token, 95 % interval (.0\.\d{4}) to (.0\.\d{4})\."
    told = re.fullmatch(
        rf"So far muon dense is lower than adamw dense in 3 of 3 seeds: {found} No claim: fewer "
        r"than 5 seeds\. With 5 it can be one \(make compare: SEEDS=5\)\.",
        said(report),
    )
    assert told
    mean, low, high = (float(text.replace("\u2212", "-")) for text in told.groups())
    difference = report.tables[0].comparisons[0].difference
    assert difference
    assert [mean, low, high] == pytest.approx(
        [difference.mean, difference.low, difference.high], abs=5e-5
    )
    assert "No claim" not in str(report.verdict)  # the headline has all of it
    assert told[0].split(" nats")[0] in " ".join(verdict_lines(report))
    assert "No claim" in as_markdown(report)


def test_a_small_difference_of_few_seeds_says_what_they_would_show(tmp_path: Path) -> None:
    rows = {("adamw", "none", 0.0): 1.6, ("muon", "none", 0.0): 1.601}
    report = report_of(tmp_path / "three", rows, seeds=3, scatter=0.01)
    assert re.search(
        r"in [123] of 3 seeds: .* No claim: fewer than 5 seeds, and with 3 seeds only differences "
        r"above about 0\.\d+ would show\. With 5 it can be one",
        said(report),
    )
    one = report_of(tmp_path / "one", rows, seeds=1)
    assert "No claim: fewer than 5 seeds: 1 seed cannot tell a difference from" in said(one)
    assert one.tally == ""


def test_of_several_rows_with_few_seeds_the_verdict_has_each_difference(tmp_path: Path) -> None:
    rows = {("adamw", "none", 0.0): 1.6, ("lion", "none", 0.0): 1.7, ("muon", "none", 0.0): 1.5}
    report = report_of(tmp_path, rows, seeds=3)
    assert report.headlines == [
        "No claim: fewer than 5 seeds. With 5 it can be one (make compare: SEEDS=5)."
    ]
    (text, _) = report.verdict[0].sentences
    assert text.count(" in 3 of 3 seeds (") == 3
    assert "lion dense is higher than adamw dense in 3 of 3 seeds (+0." in text
