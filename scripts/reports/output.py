"""The runs a report is of, and the files it is written to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from gpt2.config.errors import UserError
from gpt2.files.atomic import replace_files
from scripts.reports.study import CELLS, is_study


def run_folders(given: Iterable[Path]) -> list[Path]:
    """Return the run directories among `given`, and in those that only hold some; each once.

    Raises UserError naming a folder that is neither.
    """
    from scripts.reports.runs import is_run

    found: dict[Path, None] = {}
    problems = []
    for path in given:
        folder = path.resolve()
        if not folder.is_dir():
            problems.append(f"{path}: there is no such folder")
            continue
        if is_run(folder):
            found[folder] = None
            continue
        parent = folder / CELLS if is_study(folder) else folder
        inside = sorted(parent.glob("*/config"))
        inside = [p.parent for p in inside if is_run(p.parent) and not p.parent.is_symlink()]
        if not inside:
            problems.append(f"{path} holds no run: a run directory has a config; name one")
        found.update(dict.fromkeys(inside))
    if problems:
        raise UserError(*problems)
    return list(found)


def write_all(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files so that all of them are new ones, or all the old ones. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A name in it may be of bytes that are no UTF-8.
        replace_files(folder, texts, errors="backslashreplace")
    except OSError as error:
        raise UserError(
            f"{folder}: the report cannot be written ({error.strerror}); an earlier one is as it "
            "was. Make room, or name another folder with --to"
        ) from error
