"""The report as one self-contained HTML page: no network, no fonts, no libraries."""

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
from scripts.reports.pictures import figures
from scripts.reports.pictures.picture import Picture, slug
from scripts.reports.pictures.rates import HEADING as RATES
from scripts.reports.runs import Run
from scripts.reports.sections import Sections
from scripts.reports.single_run import facts, losses_grid, settings_grid
from scripts.reports.statistics import FEWEST, LEVEL, POWER
from scripts.reports.table_files import downloads
from scripts.reports.words import count_text, percent

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
        # Both are our own files, without content of any run.
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        **content,
    )


def _of_one(run: Run, drawn: Sequence[Picture]) -> dict[str, Any]:
    """Return the variables of the page of one run."""
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
    """Return the variables of the page of several runs."""
    shown = Sections(report)
    sections = shown.by_sparsity
    there = {section.asked for section in sections}
    rest = [picture for picture in drawn if picture.asked not in there]
    pictures = [picture for picture in rest if picture.heading != RATES]
    lost = shown.unfinished or (report.matrix and (report.matrix.failures or report.matrix.left))
    places = [("overview", "All runs")] if shown.overview else []
    places += [(f"table-{number}", each.heading) for number, each in enumerate(sections, 1)]
    places += [
        (place, title)
        for found, place, title in (
            (pictures, "pictures", "Pictures"),
            (shown.efficiencies, "efficiency", "Data efficiency"),
            (shown.tuning, "tuning", "Learning rates"),
            (shown.widths, "widths", "Range of good rates"),
            (lost, "unfinished", "Without results"),
        )
        if found
    ]
    return {
        "places": places,
        "shown": shown,
        "names": [f"sparsity-{slug(s.asked)}" if s.asked else "dense" for s in sections],
        "pictures_of": [[p for p in drawn if p.asked == s.asked] for s in sections],
        "pictures": pictures,
        "rate_pictures": [picture for picture in rest if picture.heading == RATES],
        "lost": lost,
        "fewest": FEWEST,
        "level": percent(LEVEL),
        "power": percent(POWER),
    }
