"""Reports of run directories with known results: what is said, refused, shown and written."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from gpt2.config.errors import UserError
from gpt2.config.options import Options
from scripts.report import main
from scripts.reports.comparisons import tables_of
from scripts.reports.pictures.costs import pareto
from scripts.reports.pictures.svg import svg
from scripts.reports.rows import rows_of
from scripts.reports.runs import Run, read_run
from scripts.reports.statistics import holm
from scripts.reports.text import COLUMNS, MEASURED
from scripts.reports.tuning import tune
from scripts.reports.words import overlapping
from scripts.study.tuning import choose
from tests.support import tiny
from tests.support.small_cells import cell_record
from tests.support.synthetic import write_matrix, write_run

pytestmark = pytest.mark.slow

FILES = ("report.html", "report.md", "results.csv", "results.jsonl")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole matrix, reported."""
    out = write_matrix(tmp_path_factory.mktemp("reports") / "matrix")
    assert main(["--out", str(out)]) == 0
    return out


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def test_every_run_is_in_the_csv_as_its_summary_has_it(matrix: Path) -> None:
    found = table(matrix)
    assert len(found) == 40
    for line in found:
        summary = json.loads((matrix / "cells" / line["run"] / "summary.json").read_text())
        shown = {name: value for name, value in summary.items() if name in COLUMNS}
        assert len(shown) > 12
        assert {name: float(line[name]) for name in shown} == shown
        assert line["role"] == "reported"


def test_the_csv_without_what_was_measured_is_the_same_again(matrix: Path, tmp_path: Path) -> None:
    again = write_matrix(tmp_path / "elsewhere")
    for run in (again / "cells").iterdir():
        summary = json.loads((run / "summary.json").read_text())
        summary |= {"seconds": 77.7, "tokens_per_second": 1.5, "peak_host_bytes": 9}
        record = json.loads((run / "run.json").read_text())
        record |= {"start": "2027-01-01T00:00:00+00:00", "resumes": ["2027-01-01T00:00:01+00:00"]}
        (run / "summary.json").write_text(json.dumps(summary))
        (run / "run.json").write_text(json.dumps(record))
    assert main(["--out", str(again)]) == 0
    first, second = (
        [{k: v for k, v in line.items() if k not in MEASURED} for line in table(folder)]
        for folder in (matrix, again)
    )
    assert first == second
    assert table(matrix) != table(again)


def test_a_row_is_the_mean_of_its_seeds(matrix: Path) -> None:
    losses = [float(r["val_loss"]) for r in table(matrix) if r["row"] == "adamw + state"]
    (row,) = [r for r in lines(matrix, "row") if r["row"] == "adamw + state"]
    assert row["seeds"] == [1, 2, 3, 4, 5]
    assert row["val_loss"]["mean"] == pytest.approx(sum(losses) / 5)


def test_the_best_on_the_way_is_nowhere(matrix: Path) -> None:
    for name in FILES:
        assert "0.1234" not in (matrix / name).read_text()


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


def runs_of(folder: Path) -> list[Run]:
    return [read_run(path) for path in sorted(folder.iterdir())]


def pair(tmp_path: Path, **changes: Any) -> list[Run]:
    """Write dense runs and pruned ones that differ from them in `changes`, too."""
    for seed in range(1, 6):
        write_run(tmp_path / f"dense-{seed}", 1.5 + seed / 100, seed)
        write_run(tmp_path / f"state-{seed}", 1.7 + seed / 99, seed, method="state", **changes)
    return runs_of(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": 99}, "tokens differ"),
        ({"steps": 99}, "steps differ"),
        ({"data": {"data_hash": "b" * 64}}, "data differs (bbbbbbbb, aaaaaaaa)"),
        ({"code": "e" * 64}, "code differs (eeeeeeee, cccccccc)"),
        ({"code": None}, "code is not on record"),
        ({"precision": "bf16"}, "precision differs (bf16, fp32)"),
        ({"compiled": True}, "compiled differs (True, False)"),
        ({"effective_batch": 16}, "effective batch differs (16, 8)"),
        ({"device": "cpu"}, "device differs (cpu, cuda)"),
        ({"device_name": "another card"}, "device differs (another card, a card)"),
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
        assert "code differs" in text
        assert "No claim is made" in text


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


def test_the_earliest_of_a_seed_counts_and_the_others_are_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a-later", 1.0, 1, start="2026-12-01T00:00:00+00:00")
    write_run(tmp_path / "b-first", 2.0, 1)
    (row,) = rows_of(runs_of(tmp_path))
    assert [run.name for run in row.runs] == ["b-first"]
    assert [run.name for run in row.repeats] == ["a-later"]


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


def tuned(folder: Path, missing: str = "") -> None:
    """Write dense tuning runs of two optimizers at three rates, and reported runs at all."""
    best = {"adamw": "2e-3", "adamwspam": "4e-3"}
    for optimizer, chosen in best.items():
        for rate in ("1e-3", "2e-3", "4e-3"):
            options = {"LEARNING_RATE": rate}
            for seed in (11, 12):
                # The losses of the tuning seeds are the lowest of all: they must not be shown.
                loss = 1.0 + (rate != chosen) * 0.1 + seed / 1000
                name = f"tune-{optimizer}-{rate}-{seed}"
                if name != missing:
                    write_run(folder / name, loss, seed, optimizer, options=options)
        for seed in range(1, 6):
            name = f"{optimizer}-{seed}"
            write_run(folder / name, 1.5, seed, optimizer, options={"LEARNING_RATE": chosen})


def test_the_rate_is_chosen_on_seeds_that_are_not_reported(tmp_path: Path) -> None:
    tuned(tmp_path / "runs")
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    rows = lines(tmp_path / "out", "row")
    assert {row["row"]: row["seeds"] for row in rows} == {
        "adamw dense": [1, 2, 3, 4, 5],
        "adamwspam dense": [1, 2, 3, 4, 5],
    }
    assert all(row["val_loss"]["mean"] == 1.5 for row in rows)
    roles = [line["role"] for line in table(tmp_path / "out")]
    assert (roles.count("reported"), roles.count("tuning")) == (10, 12)
    text = (tmp_path / "out" / "report.md").read_text()
    for shown in ("1.0110", "1.1120", "chosen", "tuning seeds (11, 12)"):
        assert shown in text.replace("\\", "")
    assert "same number of runs and tokens" in text
    assert "adamwspam: the best rate, 4e-3, is at the edge" in text.replace("\\", "")


@pytest.mark.slow
def test_unequal_tuning_is_flagged(tmp_path: Path) -> None:
    tuned(tmp_path / "runs", missing="tune-adamw-1e-3-12")
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "budgets are not equal" in text
    assert "not every rate has every tuning seed" in text


def test_without_tuning_seeds_every_rate_is_a_row(tmp_path: Path) -> None:
    for rate in ("1e-3", "2e-3"):
        for seed in (1, 2):
            options = {"LEARNING_RATE": rate}
            write_run(tmp_path / "runs" / f"{rate}-{seed}", 1.5, seed, options=options)
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    labels = [row["row"] for row in lines(tmp_path / "out", "row")]
    assert labels == ["adamw dense (learning-rate 1e-3)", "adamw dense (learning-rate 2e-3)"]


def test_a_matrix_says_its_tuning_seeds(tmp_path: Path) -> None:
    tuned(tmp_path / "cells")
    spec = {"cells": [], "tuning": {"seeds": [1, 11, 12]}}
    (tmp_path / "matrix.json").write_text(json.dumps(spec))
    assert main(["--out", str(tmp_path)]) == 0
    assert all(row["seeds"] == [2, 3, 4, 5] for row in lines(tmp_path, "row"))


@pytest.mark.parametrize(
    ("losses", "rate"),
    [
        # Where every rate has a failed seed, as many seeds each: the lower mean of the others
        # must not win.
        ({"1e-3": [1.0, None], "2e-3": [None, 2.0]}, None),
        ({"1e-3": [1.0, None], "2e-3": [2.0, 2.0]}, "2e-3"),
        ({"4e-3": [2.0, 1.0], "2e-3": [1.0, 2.0]}, "2e-3"),
        ({"10e-4": [None, None], "2e-3": [3.0, 3.0]}, "2e-3"),
    ],
)
def test_the_matrix_and_the_report_choose_the_same_rate(
    losses: dict[str, list[float | None]], rate: str | None, tmp_path: Path
) -> None:
    cells, final = [], {}
    for text, values in losses.items():
        for seed, loss in enumerate(values, start=11):
            name = f"adamw-{text}-{seed}"
            write_run(tmp_path / name, loss, seed, options={"LEARNING_RATE": text})
            axes = {"optimizer": "adamw", "learning-rate": text}
            cells.append(cell_record(name=name, axes=axes, seed=seed, tuning=True))
            final[name] = math.inf if loss is None else loss
    (chosen,) = choose(cells, final)
    tuning = tune(runs_of(tmp_path), (11, 12))
    assert tuning is not None
    assert chosen.rate == rate
    assert [trial.rate for trial in tuning.trials if trial.chosen] == ([rate] if rate else [])
    assert any("none is chosen" in text for text in tuning.remarks) == (rate is None)


def test_without_a_rate_that_works_every_rate_is_a_row(tmp_path: Path) -> None:
    for rate in ("1e-3", "2e-3"):
        for seed, loss in ((11, None), (12, 1.0), (1, 1.5), (2, 1.5)):
            options = {"LEARNING_RATE": rate}
            write_run(tmp_path / "runs" / f"{rate}-{seed}", loss, seed, options=options)
    words = ["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]
    assert main([*words, "--tuning-seeds", "11", "12"]) == 0
    labels = [row["row"] for row in lines(tmp_path / "out", "row")]
    assert labels == ["adamw dense (learning-rate 1e-3)", "adamw dense (learning-rate 2e-3)"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "adamw: no rate has finished on every tuning seed; none is chosen." in text


def test_a_matrix_without_dense_cells_is_tuned_by_all_of_them(tmp_path: Path) -> None:
    for rate, loss in (("1e-3", 2.0), ("2e-3", 1.0)):
        for method in ("magnitude", "movement"):
            options = {"LEARNING_RATE": rate}
            name = f"{method}-{rate}"
            write_run(tmp_path / name, loss, 11, method=method, options=options)
    tuning = tune(runs_of(tmp_path), (11,))
    assert tuning is not None
    assert [(trial.rate, trial.mean, trial.chosen) for trial in tuning.trials] == [
        ("1e-3", 2.0, False), ("2e-3", 1.0, True),
    ]  # fmt: skip


def test_the_earliest_finished_run_of_a_tuning_seed_counts(tmp_path: Path) -> None:
    for number, (start, rate, loss) in enumerate(
        [("1", "1e-3", None), ("2", "1e-3", 1.0), ("3", "1e-3", 9.0), ("1", "2e-3", 2.0)]
    ):
        options = {"LEARNING_RATE": rate}
        write_run(tmp_path / str(number), loss, 11, start=start, options=options)
    tuning = tune(runs_of(tmp_path), (11,))
    assert tuning is not None
    assert [trial.losses for trial in tuning.trials] == [{11: 1.0}, {11: 2.0}]
    assert [trial.chosen for trial in tuning.trials] == [True, False]


class Page(HTMLParser):
    """What a browser would meet in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tips = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "poster"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            self.tips += name == "class" and value == "tip"


def test_the_page_needs_nothing_but_itself(matrix: Path) -> None:
    text = (matrix / "report.html").read_text()
    page = Page(text)
    assert page.links
    beside = {"results.csv", "results.jsonl", "report.md"}
    assert all(link[:1] == "#" or link[:10] == "data:text/" for link in {*page.links} - beside)
    assert sum(link.startswith("data:text/x-tex;") for link in page.links) > 5
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert "@import" not in text
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", text))
    addresses = set(re.findall(r"https?://[^\"'<> ]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in text


def test_every_picture_is_there_with_words_and_values(matrix: Path) -> None:
    text = (matrix / "report.html").read_text()
    page = Page(text)
    pictures = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    assert len(pictures) == 2 + 2 + 2 + 1  # differences, curves, sparsity and costs, layers
    for picture in pictures:
        assert re.search(r'role="img"', picture)
        title, words = re.findall(r"<title id=.*?>(.+?)</title>|<desc id=.*?>(.+?)</desc>", picture)
        assert title[0]
        assert len(words[1]) > 20
        assert "<title>" in picture  # a value to show
    assert "Perplexity of each method at 50 % sparsity" in text
    layers = next(found for found in pictures if "Sparsity of each matrix" in found)
    assert re.search(r">50</text>", layers)  # the number in a cell
    assert ">100 %</text>" in layers  # the scale
    assert page.tips > 80
    assert len(page.ids) == len(set(page.ids))
    # Every colour is the page's, so that light, dark and print have their own.
    assert not re.search(r"#0[ab]0[ab]0[0-9]", text)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_nothing_of_a_run_is_markup(tmp_path: Path) -> None:
    evil = "</title><script>alert(1)</script><img src=x onerror=alert(2)>"
    options = {"DATA_DIR": "<script>alert(3)</script>"}
    changes = {"host": evil, "device_name": evil, "status": evil, "code": evil, "start": evil}
    runs = tmp_path / "cells"
    for number in (1, 2):
        name = f"<b>{number}{evil.replace('/', '')}"
        folder = write_run(runs / name, 1.5, number, options=options, **changes)
        (folder / "command").write_text(evil + "\n```\n# heading")
    failed = write_run(runs / "lost", None, 3, **changes)
    config = (failed / "config").read_text()
    (failed / "config").write_text(config + f'CONFIG_EVIL_ODD="{evil}"\n')
    (tmp_path / "matrix.json").write_text(json.dumps({"name": evil, "cells": [{"name": evil}]}))
    event = {"event": "failed", "cell": evil, "kind": evil, "exit_code": 1, "tail": [evil]}
    (tmp_path / "journal.jsonl").write_text(json.dumps(event) + "\n")
    assert main(["--out", str(tmp_path)]) == 0
    page = Page((tmp_path / "report.html").read_text())
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert "b" not in page.tags
    markdown = (tmp_path / "report.md").read_text()
    rest = re.sub(r"^(`{3,})\n.*?^\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    assert "script" in rest
    assert not re.search(r"(?<!\\)<", rest)


def test_the_matrix_is_shown_with_commands_and_what_differs(matrix: Path) -> None:
    text = (matrix / "report.html").read_text()
    for shown in ("--pruning-method", "python3 gpt2/train.py --seed 3", "a card", "d" * 40, "jobs"):
        assert shown in text


def test_shared_runs_have_no_comparable_speed(tmp_path: Path) -> None:
    out = write_matrix(tmp_path / "matrix", cells=1, seeds=2)
    assert main(["--out", str(out)]) == 0
    assert "shared the machine" not in (out / "report.html").read_text()
    event = {"event": "started", "cell": "adamw-none-1", "time": "t", "shared": True}
    (out / "journal.jsonl").write_text(json.dumps(event) + "\n")
    assert main(["--out", str(out)]) == 0
    assert "shared the machine" in (out / "report.html").read_text()


def test_runs_that_overlap_on_a_cpu_shared_it(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1.5, 1, device="cpu")
    other = write_run(tmp_path / "b", 1.5, 2, device="cpu")
    assert not overlapping(runs_of(tmp_path))
    record = json.loads((other / "run.json").read_text())
    record["start"] = "2026-11-24T10:01:29+00:00"  # a second before the other ends
    (other / "run.json").write_text(json.dumps(record))
    assert overlapping(runs_of(tmp_path))


def test_texts_for_marks_that_are_not_there_are_an_error() -> None:
    figure = Figure()
    figure.subplots().plot([1, 2], [1, 2], "o", gid="points")
    assert svg(figure, "f", "t", "d", {"points": ["one", "two"]}).count('class="tip"') == 2
    with pytest.raises(ValueError, match="2 marks for 1 texts"):
        svg(figure, "f", "t", "d", {"points": ["one"]})


def test_the_front_has_what_nothing_beats() -> None:
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 2.5), (2.5, 2.0), (4.0, 1.0)]
    assert pareto(points) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]


def test_one_run_has_its_curves(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1.5, method="state")
    assert main(["--runs", str(run), "--to", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "step 100: validation loss 1.5000, sparsity 50 %" in text


def test_a_run_without_results_is_listed_and_nothing_more(tmp_path: Path) -> None:
    out = write_matrix(tmp_path / "matrix", cells=2, seeds=5)
    (out / "cells" / "adamw-none-5" / "summary.json").unlink()
    lost = write_run(out / "cells" / "lion-none-1", None, 1, "lion")
    (lost / "run.json").unlink()
    events = [
        {"event": "failed", "cell": "lion-none-1", "kind": "diverged", "exit_code": 5,
         "tail": "error: diverged", "retry": False},
        {"event": "failed", "cell": "adamw-none-1", "kind": "memory", "exit_code": 6, "tail": ""},
        {"event": "finished", "cell": "adamw-none-1"},
    ]  # fmt: skip
    (out / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + '{"event"')
    assert main(["--out", str(out)]) == 0
    text = (out / "report.html").read_text()
    assert "adamw-none-5" in text
    assert "not begun" in text
    assert "Failed: diverged, exit code 5" in text
    assert "Failed: memory" not in text
    assert "4 of 5" in text
    assert "journal.jsonl: 1 line(s) cut short" in text
    assert {line["role"] for line in table(out)} == {"reported", "unfinished"}


def test_a_half_written_line_takes_nothing_else_away(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1.5)
    whole = read_run(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "val_lo')
    found = read_run(run)
    assert found.evaluations == whole.evaluations
    assert found.losses == whole.losses
    assert found.problems == ("metrics.jsonl: a line cut short or damaged, left out of the curves",)


def test_steps_that_went_wrong_are_told(tmp_path: Path) -> None:
    for seed, spiked in ((1, 0), (2, 3), (3, 1)):
        write_run(tmp_path / "runs" / str(seed), 1.5, seed, spiked_steps=spiked)
    write_run(tmp_path / "runs" / "4", 1.5, 1, "adamwspam", skipped_steps=1, rollbacks=2)
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text()
        assert "adamw dense: 4 steps skipped as spikes, in 2 of 3 runs." in text
        assert "adamwspam dense: 1 step skipped, without a finite loss and gradient" in text
        assert "adamwspam dense: 2 rollbacks after spikes, in 1 of 1 runs." in text
        assert text.count("skipped as spikes") == 1
    assert {line["rollbacks"] for line in table(tmp_path / "out")} == {"0", "2"}


def test_another_version_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "a", 1.5)
    (run / "config").write_text((run / "config").read_text() + 'CONFIG_OF_TOMORROW="1"\n')
    old = write_run(tmp_path / "runs" / "b", 1.6, 2)
    summary = json.loads((old / "summary.json").read_text())
    del summary["sparsity_reached"]
    (old / "summary.json").write_text(json.dumps(summary))
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text().replace("\\", "")
    assert "config is of another version: OF_TOMORROW unknown here" in text
    assert "summary.json has no sparsity_reached" in text
    assert [line["status"] for line in table(tmp_path / "out")] == [
        "finished", "results of another version",
    ]  # fmt: skip


def test_results_without_the_newer_entries_are_still_results(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1.5)
    summary = json.loads((run / "summary.json").read_text())
    for name in ("optimizer_state_bytes", "dense_bytes", "sparse_bytes"):
        del summary[name]
    (run / "summary.json").write_text(json.dumps(summary))
    assert main(["--runs", str(run), "--to", str(tmp_path / "out")]) == 0
    (line,) = table(tmp_path / "out")
    assert (line["val_loss"], line["dense_bytes"]) == ("1.5", "")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"val_loss": null}'])
def test_damaged_results_are_none(content: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1.5)
    (run / "summary.json").write_text(content)
    assert not read_run(run).finished
    assert main(["--runs", str(run), "--to", str(tmp_path / "out")]) == 0
    assert "No results yet: " in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "{}/empty"], "holds no run"),
        (["--runs", "{}/absent"], "there is no such folder"),
        (["--runs", "{}/good", "{}/empty"], "holds no run"),
        (["--out", "{}/empty"], "is no matrix"),
    ],
)
def test_a_folder_without_runs_is_refused(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "good", 1.5)
    with pytest.raises(UserError, match=message) as caught:
        main([word.format(tmp_path) for word in arguments])
    assert caught.value.code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "good"]


def test_without_a_matrix_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.report.RUNS", tmp_path)
    with pytest.raises(UserError, match="make test-matrix") as caught:
        main([])
    assert caught.value.code == 2


def test_the_newest_matrix_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.report.RUNS", tmp_path)
    for name, age in (("one", 100), ("two", 200)):
        out = write_matrix(tmp_path / name, cells=1, seeds=1)
        os.utime(out / "matrix.json", (age, age))
    (tmp_path / "one" / "journal.jsonl").write_text("")  # the older one was at work last
    assert main([]) == 0
    assert (tmp_path / "one" / "report.html").exists()
    assert not (tmp_path / "two" / "report.html").exists()


def test_nothing_that_can_be_read_is_an_error_of_data(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1.5)
    (run / "config").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="no run among these can be read") as caught:
        main(["--runs", str(run), "--to", str(tmp_path / "out")])
    assert caught.value.code == 3
    (tmp_path / "matrix.json").write_text("{")
    (tmp_path / "cells").mkdir()
    write_run(tmp_path / "cells" / "a", 1.5)
    with pytest.raises(UserError, match=r"matrix\.json cannot be read") as caught:
        main(["--out", str(tmp_path)])
    assert caught.value.code == 3


def test_a_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = write_run(tmp_path / "run", 1.5), tmp_path / "out"
    assert main(["--runs", str(run), "--to", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == sorted(FILES)
    write_run(tmp_path / "other", 1.7, 2)
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        main(["--runs", str(run), str(tmp_path / "other"), "--to", str(out)])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_make_prints_the_command_and_takes_runs_that_are_typed_alone(tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    for words, environment, expected in (
        (["RUNS=a b"], {}, "scripts/report.py --runs$(quoted $RUNS)"),
        ([], {"RUNS": "a b"}, "scripts/report.py"),
    ):
        done = subprocess.run(
            ["make", "-n", f"PYTHON={sys.executable}", "report", *words],
            cwd=tiny.REPOSITORY, env={**clean, **environment}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert expected in done.stdout
        assert ("--runs" in done.stdout) == bool(words)


@pytest.mark.slow
def test_real_runs_are_reported(tmp_path: Path) -> None:
    data = tiny.make_data(tmp_path / "data")
    for seed in ("1", "2"):
        for method in ("none", "magnitude"):
            more = ("--seed", seed, "--max-steps", "4", "--pruning-method", method)
            assert tiny.train(data, tmp_path / "runs" / f"{method}-{seed}", *more) == 0
    assert main(["--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    found = {line["row"]: line["seeds"] for line in lines(tmp_path / "out", "row")}
    assert found == {"adamw dense": [1, 2], "adamw + magnitude": [1, 2]}
    (comparison,) = lines(tmp_path / "out", "comparison")
    assert comparison["outcome"] == "too few"
    for line in table(tmp_path / "out"):
        summary = json.loads((tmp_path / "runs" / line["run"] / "summary.json").read_text())
        assert float(line["val_loss"]) == summary["val_loss"]
        assert all(line[name] != "" for name in ("code", "sparse_bytes", "optimizer_state_bytes"))


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
    assert "Never reached the final loss of the row in brackets: adamw + magnitude (" in text


@pytest.mark.parametrize("margin", ["0", "-0.005", "small", "nan", "inf"])
def test_a_margin_that_is_none_is_refused(margin: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, UserError)) as caught:
        main(["--equivalence", margin])
    said = str(caught.value) + capsys.readouterr().err
    assert f"{margin} is not a margin: give nats per token above 0" in said
