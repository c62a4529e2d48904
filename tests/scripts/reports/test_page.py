"""The page needs nothing but itself, and its pictures have words and values."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from scripts.report import main
from scripts.reports.pictures.costs import pareto
from scripts.reports.pictures.svg import svg
from tests.support.synthetic import write_run

pytestmark = pytest.mark.slow


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


def test_texts_for_marks_that_are_not_there_are_an_error() -> None:
    figure = Figure()
    figure.subplots().plot([1, 2], [1, 2], "o", gid="points")
    assert svg(figure, "f", "t", "d", {"points": ["one", "two"]}).count('class="tip"') == 2
    with pytest.raises(ValueError, match="2 marks for 1 texts"):
        svg(figure, "f", "t", "d", {"points": ["one"]})


def test_the_front_has_what_nothing_beats() -> None:
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 2.5), (2.5, 2.0), (4.0, 1.0)]
    assert pareto(points) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
