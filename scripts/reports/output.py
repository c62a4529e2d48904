"""The files of a report: the runs in it, and their atomic writing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gpt2.config.errors import Exit, UserError
from gpt2.files.atomic import replace_files
from gpt2.run_dir.latest import meant
from scripts.reports.content import Report, compose
from scripts.reports.markdown import as_markdown
from scripts.reports.overview import overview_grid, usual_text
from scripts.reports.page import as_page
from scripts.reports.runs import is_run, read_run
from scripts.reports.single_run import facts
from scripts.reports.study import CELLS, is_matrix, read_matrix
from scripts.reports.terminal import terminal_table
from scripts.reports.text import as_csv, as_json_lines
from scripts.reports.words import count_text


def report_of_runs(
    given: Iterable[Path],
    tuning_seeds: Sequence[int] | None,
    pooled: bool = False,
    margin: float | None = None,
) -> Report:
    """Return the report of runs, or of folders of runs, as in compose.

    Raises UserError.
    """
    runs = [read_run(folder) for folder in run_folders(given)]
    title = runs[0].name if len(runs) == 1 else "Comparison of runs"
    _refuse_unreadable(any(run.options for run in runs))
    return compose(title, runs, None, tuning_seeds, pooled, margin)


def report_of_matrix(
    folder: Path,
    tuning_seeds: Sequence[int] | None,
    pooled: bool = False,
    margin: float | None = None,
) -> Report:
    """Return the report of a matrix, as in compose.

    Raises UserError when the folder is not a matrix.
    """
    if not is_matrix(folder):
        raise UserError(
            f"--matrix {folder} is no matrix: it has no matrix.json; --runs reports any runs"
        )
    runs = [read_run(path) for path in run_folders([folder])]
    matrix = read_matrix(folder, runs)
    _refuse_unreadable(any(run.options for run in runs))
    seeds = matrix.tuning_seeds if tuning_seeds is None else tuning_seeds
    return compose(f"Matrix {matrix.name}", runs, matrix, seeds, pooled, margin)


def _refuse_unreadable(readable: bool) -> None:
    if not readable:
        raise UserError("no run among these can be read: every config is empty", code=Exit.DATA)


def texts_of(report: Report) -> dict[str, str]:
    """Return the files of a report by name."""
    return {
        "report.html": as_page(report),
        "report.md": as_markdown(report),
        "results.csv": as_csv(report),
        "results.jsonl": as_json_lines(report),
    }


def verdict_lines(report: Report) -> list[str]:
    """Return the headline and the verdict of a report for a terminal."""
    lines = [*report.headlines, *(note for note in (report.tally, report.split_note) if note)]
    if report.single:
        lines += [f"  {title}: {value}" for title, value in facts(report.single)]
    if report.unlike:
        lines += ["", *terminal_table(overview_grid(report.rows))]
        lines += [usual] if (usual := usual_text(report.rows)) else []
    for paragraph in report.verdict:
        lines += [f"\n{paragraph.heading}", *(f"  {one}" for one in paragraph.sentences)]
    return lines


def count_line(report: Report) -> str:
    """Return a line with the number of runs in a report, and of those without results."""
    return f"\n{count_text(report.runs)}"


def run_folders(given: Iterable[Path]) -> list[Path]:
    """Return the run directories among `given`, and in folders of runs; each once.

    Raises UserError naming a folder that is neither.
    """
    found: dict[Path, Path] = {}  # by resolved path
    problems = []
    for path in given:
        folder = meant(path).resolve()
        if not folder.is_dir():
            problems.append(f"{path}: there is no such folder")
            continue
        if is_run(folder):
            found.setdefault(folder, folder)
            continue
        parent = folder / CELLS if is_matrix(folder) else folder
        inside = [config.parent for config in sorted(parent.glob("*/config"))]
        inside = [run for run in inside if is_run(run)]
        if not inside:
            problems.append(f"{path} holds no run: a run directory has a config; name one")
        for run in sorted(inside, key=Path.is_symlink):  # `latest` after the run it points to
            found.setdefault(run.resolve(), run)
    if problems:
        raise UserError(*problems)
    return list(found.values())


def write_all(folder: Path, texts: Mapping[str, str]) -> None:
    """Write all files, or none of them.

    Raises UserError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A file name in a text may contain bytes that are not UTF-8.
        replace_files(folder, texts, errors="backslashreplace")
    except OSError as error:
        raise UserError(
            f"{folder}: the report cannot be written ({error.strerror}); an earlier one is as it "
            "was. Make room, or name another folder with --to"
        ) from error
