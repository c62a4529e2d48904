"""Reports of any runs: one table of what differs, groups in place of pairs, short texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.report import main
from scripts.reports.content import compose
from scripts.reports.output import verdict_lines
from scripts.reports.overview import overview_grid, usual_options
from scripts.reports.runs import read_run
from scripts.reports.terminal import terminal_table
from tests.support.synthetic import write_run


def unlike_runs(folder: Path, count: int) -> Path:
    """One run each of different widths, lengths, data and dropout; every fifth is pruned."""
    for number in range(count):
        options = {"DROPOUT": f"0.{1 + number % 9}", "BLOCK_SIZE": str(64 * (1 + number % 3)),
                   "WEIGHT_DECAY": f"0.0{number % 7}", "GRAD_CLIP": f"1.{number % 5}"}  # fmt: skip
        write_run(
            folder / f"run-{number:02}", 1.5 + number / 100, 1, options=options,
            tokens=1000 * (1 + number % 6), data={"data_hash": f"{number % 5}" * 64},
            method="state" if number % 5 == 4 else "none",
        )  # fmt: skip
    return folder


def report_of(folder: Path, count: int):  # type: ignore[no-untyped-def]
    runs = [read_run(path) for path in sorted(unlike_runs(folder, count).iterdir())]
    return compose(f"{count} runs", runs)


@pytest.mark.slow
def test_the_text_grows_with_the_runs_and_not_with_the_pairs(tmp_path: Path) -> None:
    sizes = {}
    for count in (10, 40):
        report = report_of(tmp_path / str(count), count)
        assert report.unlike
        text = "\n".join([*verdict_lines(report), *report.remarks])
        assert "groups that are not compared with one another" in text
        sizes[count] = len(text)
    assert sizes[40] < 6 * sizes[10]
    assert max(len(row.label) for row in report.rows) < 60


def test_a_line_says_what_a_run_differs_in(tmp_path: Path) -> None:
    for number, options in enumerate(({}, {}, {"DROPOUT": "0.2"}, {"N_LAYER": "4", "BIAS": "n"})):
        shape = {"MODEL": "custom", "N_LAYER": "2", "N_HEAD": "2", "N_EMBD": "32", **options}
        optimizer = "lion" if number == 1 else "adamw"
        write_run(tmp_path / f"r{number}", 1.5 + number, 1, optimizer, options=shape)
    report = compose("4 runs", [read_run(path) for path in sorted(tmp_path.iterdir())])
    usual = usual_options(report.rows)
    assert usual["N_LAYER"] == "2"
    assert not {"LION_BETA1", "OPTIMIZER", "SEED", "DATA_DIR"} & usual.keys()
    told = {line[0]: line[-1] for line in overview_grid(report.rows).lines}
    assert list(told) == ["r0", "r1", "r2", "r3"]  # the lowest loss first
    assert told["r0"] == "-"
    assert "learning-rate" in told["r1"]
    assert told["r2"] == "dropout 0.2"
    assert told["r3"] == "n-layer 4, bias n"


def test_a_terminal_wraps_the_last_column(tmp_path: Path) -> None:
    report = report_of(tmp_path, 8)
    lines = list(terminal_table(overview_grid(report.rows), 110))
    assert max(map(len, lines)) <= 110
    assert sum("run-0" in line for line in lines) == 8


@pytest.mark.slow
def test_the_page_has_one_table_of_all(tmp_path: Path) -> None:
    runs = unlike_runs(tmp_path / "runs", 10)
    assert main(["--runs", str(runs), "--to", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<table class="overview">') == 1
    assert page.count('<table class="results">') == 0
    assert "run-00" in page
    assert "## All runs" in (tmp_path / "out" / "report.md").read_text()
