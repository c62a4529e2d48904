"""Provenance of a report's numbers: versions, machines, options, and their differences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gpt2.config.names import flag_of
from scripts.reports.option_values import value_text
from scripts.reports.rows import Row, differences
from scripts.reports.runs import Run
from scripts.reports.table_cells import Grid

#: run.json's entries about the program and the machine, with their names for readers.
_PROVENANCE = {
    "commit": "commit",
    "code": "code (SHA-256 of gpt2/)",
    "host": "host",
    "platform": "platform",
    "device_name": "device",
    "threads": "threads",
    "precision": "precision",
    "compiled": "compiled",
    "effective_batch": "effective batch",
    "determinism": "determinism",
}


def provenance(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return program, data and machine of the runs, with all values of each."""
    found = [
        (title, values)
        for name, title in _PROVENANCE.items()
        if (values := _values(getattr(run.record, name) for run in runs))
    ]
    data = [run.record.data for run in runs if run.record.data]
    for name, title in (("dataset", "data"), ("data_hash", "data hash")):
        if values := _values(getattr(entry, name) for entry in data):
            found.append((title, values))
    if values := _values(entry.source.get("address") for entry in data if entry.source):
        found.append(("data source", values))
    versions: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, version in (run.record.versions or {}).items():
            if version is not None:
                versions.setdefault(name, {})[str(version)] = None
    found += [(name, ", ".join(each)) for name, each in versions.items()]
    return found


def _values(values: Any) -> str:
    kept = dict.fromkeys(str(value) for value in values if value is not None)
    return ", ".join(kept)


def differing_options(rows: Sequence[Row]) -> Grid:
    """Return the options in which any rows differ, a line for each, a column for each row."""
    names = sorted({name for row in rows[1:] for name in differences(rows[0], row)})
    labels = tuple(f"{row.label} ({row.asked:g})" if row.asked else row.label for row in rows)
    lines = tuple(
        (flag_of(name), *(value_text(name, row.options.get(name)) for row in rows))
        for name in names
    )
    return Grid(("", *labels), lines)


def common_options(rows: Sequence[Row]) -> str:
    """Return the options that all rows share, as flags with values."""
    if not rows:
        return ""
    varying = {name for row in rows[1:] for name in differences(rows[0], row)}
    return options_text(
        {name: value for name, value in rows[0].options.items() if name not in varying}
    )


def options_text(kept: Mapping[str, str]) -> str:
    """Return options as flags with values."""
    return "  ".join(f"{flag_of(name)} {value or repr('')}" for name, value in kept.items())


def spec_text(spec: Mapping[str, Any]) -> str:
    """Return the spec of a matrix as text; cells are only counted."""
    cells = spec.get("cells")
    shown = {name: value for name, value in spec.items() if name != "cells"}
    if isinstance(cells, list):
        shown["cells"] = f"{len(cells)}, see matrix.json"
    return json.dumps(shown, indent=2)
