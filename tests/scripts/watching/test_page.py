"""The page of a run and of a matrix: what stands in it, and that nothing of a folder is markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scripts.study.folder import MatrixFolder
from scripts.study.records import Probe
from scripts.watch import body_of
from scripts.watching.page import POLICY, frame, gone, matrix_body, run_body
from scripts.watching.view import RunView, WatchedMatrix
from tests.support.watched import write_matrix

RUN = RunView(
    name="a run", status="running", step=50, steps=200, loss=2.5, tokens_per_second=13012.3,
    memory=350_000_000, left=600.0, facts=("text", "cpu"),
    curves={"loss": [(1.0, 3.0), (50.0, 2.5)], "sparsity": [(1.0, 0.0), (50.0, 0.0)]},
)  # fmt: skip
PROBE = Probe(
    step_seconds=0.25, evaluation_seconds=1.0, other_seconds=5.0, peak_host_bytes=1,
    peak_device_bytes=1,
)  # fmt: skip
EVIL = '<script>alert("1")</script>'


class _Whole(HTMLParser):
    """Counts elements, and holds that each that is opened is closed."""

    VOID = ("meta", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def text_of(body: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", body)).replace("&#x27;", "'")


def test_a_run_shows_its_numbers_and_curves_that_are_not_flat() -> None:
    body = run_body(RUN)
    said = text_of(body)
    for word in ("a run running", "50 / 200", "2.5000", "13,012", "350 MB", "10 min", "text, cpu"):
        assert word in said
    assert _Whole(frame("a run", body)).count["figure"] == 1  # there is no sparsity
    assert "no line for" not in said
    assert "logged every" not in said  # unknown
    assert "logged every 100 steps" in text_of(run_body(replace(RUN, log_interval=100)))
    many = replace(RUN, log_interval=1, curves={"loss": [(float(n), 3.0) for n in range(12)]})
    assert "logged every" not in text_of(run_body(many))
    assert "no line for 2 min" in text_of(run_body(replace(RUN, silent=125.0)))


def test_a_matrix_that_measures_says_so(tmp_path: Path) -> None:
    folder = MatrixFolder(tmp_path / "matrix-compare-a-b-123456")
    folder.open()
    (folder.path / "probe").mkdir()
    (folder.path / "probe" / "metrics.jsonl").write_text('{"step": 7, "loss": 2.0}\n')
    folder.write_probes({"<adamw>": PROBE})
    body = body_of(lambda: WatchedMatrix(folder.path), "")
    said = text_of(body)
    assert "matrix-compare-a-b-123456 measuring" in said
    assert "have not started" in said
    assert "step 7 of 20; 1 row measured" in said
    assert "&lt;adamw&gt; 0.25 s 5 s" in said
    _Whole(frame("m", body))
    folder.close()
    assert "nothing to show now" in body_of(lambda: WatchedMatrix(folder.path), "")


def test_a_matrix_that_stands_still_names_what_continues_it(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path, ("adamw-none",), seeds=2)
    folder.close()
    view = WatchedMatrix(tmp_path).look()
    assert "'make test-matrix' continues it" in text_of(matrix_body(view, ""))
    quick = replace(view, name="compare-adamw-muon-0a1b2c")
    assert "the same 'make compare' continues it" in text_of(matrix_body(quick, ""))


def test_nothing_of_a_folder_is_markup() -> None:
    evil = replace(RUN, name=EVIL, facts=(EVIL,), reason=EVIL, label=EVIL, status="failed")
    pages = [frame(EVIL, run_body(evil)), frame(EVIL, gone(EVIL))]
    for page in pages:
        assert _Whole(page).count["script"] == 1  # the page's own
        assert "&lt;script&gt;" in page


def test_a_matrix_has_all_cells_and_the_chosen_one_whole(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path, ("adamw-none", "adamw-magnitude-0.5"), seeds=4)
    view = WatchedMatrix(tmp_path).look()
    body = matrix_body(view, "")
    said = text_of(body)
    assert "Matrix a study" in said
    assert "5 finished 2 running 1 failed" in said
    assert said.count("time left") == 2  # cards of those that run
    assert "diverged: train.py: error: the loss is &lt;NaN&gt;" in said
    assert "1.5300 (3) 1.5250 1.5300 1.5350" in said  # of seeds 1 to 3
    assert body.count('class="cell ') == 8
    _Whole(frame("a study", body))
    name = "adamw-none-seed1"
    chosen = matrix_body(view, name)
    assert f"{name} finished close" in text_of(chosen)
    assert _Whole(chosen).count["figure"] == 2 + 4 + 2  # loss, rate, norm, speed; of all cells
    assert matrix_body(view, "../../etc/passwd") == body
    folder.close()


@pytest.mark.slow
def test_two_hundred_cells_are_a_small_page(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path, [f"row-{n}" for n in range(40)], seeds=5, every=100)
    body = matrix_body(WatchedMatrix(tmp_path).look(), "")
    assert body.count('class="cell ') == 200
    assert len(body) < 200_000
    folder.close()


def test_the_page_may_load_nothing_but_itself() -> None:
    assert "default-src 'none'" in POLICY
    assert "connect-src 'self'" in POLICY
    assert not re.search(r"https?://", frame("a", run_body(RUN)))
