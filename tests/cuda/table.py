"""The results of check-gpu as one Markdown table, ready for docs/benchmarks.md."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """What a step came to. verdict: ok, FAILED or left out."""

    part: str
    what: str
    verdict: str
    result: str
    seconds: float = 0.0


def table(about: Mapping[str, Any], rows: Sequence[Row], *, dry: bool) -> str:
    """Return a heading that names the machine, `about` as in run.json, and a line for each row."""
    gpu = about.get("gpu") or {}
    versions = {name: text for name, text in about.get("versions", {}).items() if text}
    facts = [f"{name} {text}" for name, text in versions.items()]
    facts += [f"{name} {gpu[name]}" for name in ("capability", "driver") if gpu.get(name)]
    title = "check-gpu, a dry run on a CPU: no result of a card" if dry else "check-gpu"
    date = time.strftime("%d %B %Y").lstrip("0")
    lines = [
        f"### {title}: {about.get('device_name', 'unknown device')}",
        "",
        f"{date}; {', '.join(facts)}; commit {about.get('commit')}.",
        "",
        "| part | check | verdict | result | s |",
        "|---|---|---|---|--:|",
    ]
    for row in rows:
        seconds = f"{row.seconds:.0f}" if row.seconds else ""
        cells = (row.part, row.what, row.verdict, row.result, seconds)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
