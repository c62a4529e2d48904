"""Reports of any runs: one table of what differs, groups in place of pairs, short texts."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from scripts.report import main
from scripts.reports.content import Report, compose
from scripts.reports.markdown import as_markdown
from scripts.reports.output import verdict_lines
from scripts.reports.overview import overview_grid, usual_options
from scripts.reports.runs import read_run
from scripts.reports.sections import Sections
from scripts.reports.table_cells import results_grid
from scripts.reports.terminal import terminal_table
from scripts.reports.text import as_csv
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


def report_of(folder: Path, count: int) -> Report:
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
    assert "rows at 50 % sparsity fall into" in text
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
    assert list(told) == [row.runs[0].name for row in report.rows]  # one order everywhere
    assert list(told) != ["r0", "r1", "r2", "r3"]
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


def unlike_pair(tmp_path: Path) -> Report:
    """Two runs of other lengths, one of which has a limit of time."""
    for name, loss, steps, limit in (("a", 1.6, 100, "0"), ("b", 1.5, 50, "90")):
        options = {"MAX_STEPS": str(steps), "MAX_TIME": limit}
        write_run(tmp_path / name, loss, options=options, steps=steps, tokens=512 * steps)
    return compose("2 runs", [read_run(path) for path in sorted(tmp_path.iterdir())])


def test_two_unlike_runs_are_told_once_why_they_do_not_compare(tmp_path: Path) -> None:
    report = unlike_pair(tmp_path)
    reason = "steps differ (50 against 100)"
    assert "No claim: these rows cannot be compared" in report.headlines[0]
    for text in ("\n".join([*verdict_lines(report), *report.remarks]), as_markdown(report)):
        assert text.count(reason) == 1
        assert "max-time no limit" in text
        assert "max-time 90 s" in text
        assert "max-time 0" not in text


def test_no_loss_is_marked_as_best_where_rows_do_not_compare(tmp_path: Path) -> None:
    (table,) = unlike_pair(tmp_path / "unlike").tables
    assert table.lowest is None
    assert set(results_grid(table).marks) == {"row"}
    for name, loss in (("adamw", 1.6), ("lion", 1.5)):
        for seed in (1, 2):
            write_run(tmp_path / "like" / f"{name}{seed}", loss + seed / 100, seed, name)
    (table,) = compose("like", [read_run(p) for p in (tmp_path / "like").iterdir()]).tables
    assert dict(zip([row.label for row in table.rows], results_grid(table).marks, strict=True)) == {
        "adamw dense": "row",
        "lion dense": "best",
    }


def test_rows_have_one_order_in_every_table(tmp_path: Path) -> None:
    report = report_of(tmp_path, 10)
    shown = Sections(report)
    assert shown.overview is not None
    assert shown.overview_costs is not None
    names = [line[1] for line in shown.overview.lines]
    assert names == [row.label for row in report.rows]
    assert names == [line[0] for line in shown.overview_costs.lines]
    ordered = [line["row"] for line in csv.DictReader(io.StringIO(as_csv(report)))]
    assert names == ordered
