"""The report as one HTML page that needs nothing else: no network, no fonts, no libraries."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from markupsafe import Markup

from gpt2.config.text import counted
from scripts.reports import provenance, text
from scripts.reports.content import Report
from scripts.reports.pictures import figures
from scripts.reports.speed_cells import (
    efficiency_grid,
    efficiency_notes,
    speedup_grid,
    speedup_notes,
)
from scripts.reports.speedup import speedups
from scripts.reports.statistics import FEWEST, LEVEL, POWER
from scripts.reports.table_cells import comparisons_grid, costs_grid, results_grid
from scripts.reports.words import percent, where

_HERE = Path(__file__).resolve().parent


def as_page(report: Report) -> str:
    """Return report.html. Every text in it is escaped; only the pictures are markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    drawn = figures.pictures(report.runs, report.tables, report.shared, report.tuning)
    sections = [
        {
            "heading": where(t.asked),
            "results": results_grid(t),
            "costs": costs_grid(t),
            "comparisons": comparisons_grid(t) if t.comparisons else None,
            "tested": t.tested,
            "speedups": speedup_grid(found, report.shared) if found else None,
            "speedup_notes": list(speedup_notes(found)),
            "pictures": [p for p in drawn if p.asked == t.asked],
        }
        for t in report.tables
        for found in [list(speedups(t.comparisons))]
    ]
    return environment.get_template("page.html").render(
        report=report,
        finished=counted(len(report.runs) - len(report.unfinished), "finished run"),
        sections=sections,
        pictures=[picture for picture in drawn if picture.asked is None],
        efficiencies=efficiency_grid(report.efficiencies) if report.efficiencies else None,
        efficiency_notes=list(efficiency_notes(report.efficiencies)),
        tuning=text.tuning_grid(report.tuning) if report.tuning else None,
        rule=text.rule(report.tuning) if report.tuning else [],
        provenance=provenance.provenance(report.runs),
        differing=provenance.differing_options(report.rows),
        common=provenance.common_options(report.rows),
        spec=provenance.spec_text(report.matrix.spec) if report.matrix else "",
        made=f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC",
        fewest=FEWEST,
        level=percent(LEVEL),
        power=percent(POWER),
        # Both are files of ours, and hold nothing of any run.
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )
