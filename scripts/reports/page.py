"""The report as one HTML page that needs nothing else: no network, no fonts, no libraries."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from scripts.reports import provenance
from scripts.reports.content import Report
from scripts.reports.overview import overview_grid, usual_text
from scripts.reports.pictures import figures
from scripts.reports.pictures.picture import Picture, slug
from scripts.reports.pictures.rates import HEADING as RATES
from scripts.reports.runs import Run
from scripts.reports.single_run import facts, losses_grid, settings_grid
from scripts.reports.speed_cells import (
    efficiency_grid,
    efficiency_notes,
    speedup_grid,
    speedup_notes,
)
from scripts.reports.speedup import speedups
from scripts.reports.statistics import FEWEST, LEVEL, POWER
from scripts.reports.table_cells import (
    comparisons_grid,
    costs_grid,
    costs_of,
    details,
    results_grid,
    unfinished_grid,
)
from scripts.reports.table_files import downloads
from scripts.reports.tuning_cells import rule, tuning_grid, widths_grid
from scripts.reports.words import count_text, percent, where

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
    count = itertools.count(1)
    environment.globals.update(downloads=downloads, unique=lambda: next(count))
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    drawn = figures.pictures(
        report.runs, report.tables, report.shared, report.rate_curves, report.unlike
    )
    content = _of_one(report.single, drawn) if report.single else _of_rows(report, drawn)
    return environment.get_template("page.html").render(
        report=report,
        count=count_text(report.runs),
        provenance=provenance.provenance(report.runs),
        differing=provenance.differing_options(report.rows),
        common=provenance.options_text(report.single.options)
        if report.single
        else provenance.common_options(report.rows),
        spec=provenance.spec_text(report.matrix.spec) if report.matrix else "",
        made=f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC",
        # Both are files of ours, and hold nothing of any run.
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        **content,
    )


def _of_one(run: Run, drawn: Sequence[Picture]) -> dict[str, Any]:
    """Return what the page of one run shows."""
    places = [("curves", "Curves")]
    places += [("sample", "Sample")] if run.sample else []
    return {
        "places": [*places, ("settings", "Optimizer and schedule")],
        "losses": losses_grid(run),
        "facts": facts(run),
        "settings": settings_grid(run),
        "sample": run.sample,
        "pictures": drawn,
    }


def _of_rows(report: Report, drawn: Sequence[Picture]) -> dict[str, Any]:
    """Return what the page of several runs shows."""
    sections = [
        {
            "heading": where(t.asked),
            "name": f"sparsity-{slug(t.asked)}" if t.asked else "dense",
            "results": None if report.unlike else results_grid(t),
            "details": [] if report.unlike else details(t),
            "costs": None if report.unlike else costs_grid(t),
            "comparisons": comparisons_grid(t, report.legend) if t.comparisons else None,
            "tested": t.tested,
            "speedups": speedup_grid(found, report.shared) if found else None,
            "speedup_notes": list(speedup_notes(found)),
            "pictures": [p for p in drawn if p.asked == t.asked],
        }
        for t in report.tables
        if t.comparisons or not report.unlike
        for found in [list(speedups(t.comparisons))]
    ]
    shown = {t.asked for t in report.tables if t.comparisons or not report.unlike}
    pictures = [picture for picture in drawn if picture.asked not in shown]
    missing = unfinished_grid(report.unfinished) if report.unfinished else None
    lost = missing or (report.matrix and (report.matrix.failures or report.matrix.left))
    places = [("overview", "All runs")] if report.unlike else []
    places += [(f"table-{n}", str(s["heading"])) for n, s in enumerate(sections, 1)]
    for there, place, title in (
        (pictures, "pictures", "Pictures"),
        (report.efficiencies, "efficiency", "Data efficiency"),
        (report.tuning, "tuning", "Learning rates"),
        (report.rate_curves, "widths", "Width in the rate"),
        (lost, "unfinished", "Without results"),
    ):
        places += [(place, title)] if there else []
    return {
        "places": places,
        "overview": overview_grid(report.rows) if report.unlike else None,
        "overview_costs": costs_of(report.rows) if report.unlike else None,
        "usual": usual_text(report.rows) if report.unlike else "",
        "sections": sections,
        "pictures": [p for p in pictures if p.heading != RATES],
        "efficiencies": efficiency_grid(report.efficiencies) if report.efficiencies else None,
        "efficiency_notes": list(efficiency_notes(report.efficiencies)),
        "tuning": tuning_grid(report.tuning) if report.tuning else None,
        "widths": widths_grid(report.rate_curves) if report.rate_curves else None,
        "rate_pictures": [p for p in pictures if p.heading == RATES],
        "rule": rule(report.tuning) if report.tuning else [],
        "missing": missing,
        "fewest": FEWEST,
        "level": percent(LEVEL),
        "power": percent(POWER),
    }
