"""What tests of the report read: the files that it writes, and the runs of a folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from scripts.reports.runs import Run, read_run

#: The files of a report.
FILES = ("report.html", "report.md", "results.csv", "results.jsonl")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def runs_of(folder: Path) -> list[Run]:
    return [read_run(path) for path in sorted(folder.iterdir())]
