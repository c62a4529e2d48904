"""The checked settings of a matrix for Slurm: the menu "Slurm", one field for each entry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gpt2.config.errors import UserError
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE
from scripts.study.spec import RawSpec

#: Slurm's names: sbatch's values never reach a shell, and contain no comma or blank.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]*")
_FEATURES = re.compile(r"[A-Za-z0-9_.:&|*\[\]()-]+")
_MEMORY = re.compile(r"[0-9]+[KMGT]?", re.IGNORECASE)
_SPAN = re.compile(r"([0-9]+)([mhd])")
_CLOCK = re.compile(r"(?:([0-9]+)-)?([0-9]+):([0-5]?[0-9])(?::([0-5]?[0-9]))?")
_SECONDS = {"m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """The settings; the site decides empty texts and 0. Times in seconds.

    lines: of the site's own file, each beginning with #SBATCH.
    """

    partition: str
    time_limit: int
    array: int
    gpus: int
    cpus: int
    memory: str
    account: str
    qos: str
    constraint: str
    signal: int
    lines: tuple[str, ...]


def settings_of(raw: RawSpec) -> SlurmSettings | None:
    """Return the settings; None where the matrix runs here.

    Raises UserError naming every problem.
    """
    runners = list(Options(ROOT_TREE).members("MATRIX_RUNNER"))
    if raw.texts["RUNNER"] not in runners:
        value = raw.texts["RUNNER"]
        raise UserError(
            f"{raw.place('RUNNER')}: {value!r} is unknown; there are {', '.join(runners)}"
        )
    return _slurm_settings(raw) if raw.texts["RUNNER"] == "slurm" else None


def _slurm_settings(raw: RawSpec) -> SlurmSettings:
    problems: list[str] = []

    def text(key: str, form: re.Pattern[str], such_as: str) -> str:
        value = raw.texts[f"SLURM_{key}"]
        if value and not form.fullmatch(value):
            problems.append(f"{raw.place(f'SLURM_{key}')}: {value!r} is not like {such_as}")
        return value

    def number(key: str, least: int) -> int:
        value = raw.texts[f"SLURM_{key}"]
        if re.fullmatch("[0-9]{1,9}", value) and int(value) >= least:
            return int(value)
        place = raw.place(f"SLURM_{key}")
        problems.append(f"{place}: {value!r} is not a whole number of at least {least}")
        return least

    found = SlurmSettings(
        partition=text("PARTITION", _WORD, "a partition of 'sinfo'"),
        time_limit=_limit(raw, problems),
        array=number("ARRAY", 1),
        gpus=number("GPUS", 0),
        cpus=number("CPUS", 0),
        memory=text("MEMORY", _MEMORY, "32G"),
        account=text("ACCOUNT", _WORD, "an account of 'sacctmgr show associations'"),
        qos=text("QOS", _WORD, "one of 'sacctmgr show qos'"),
        constraint=text("CONSTRAINT", _FEATURES, "a100 or a100|h100"),
        signal=number("SIGNAL", 10),
        lines=_lines(raw, problems),
    )
    if problems:
        raise UserError(*problems)
    if found.time_limit < 3 * found.signal:
        raise UserError(
            f"{raw.place('SLURM_TIME_LIMIT')}: {raw.texts['SLURM_TIME_LIMIT']} is too short: the "
            f"signal to save comes {found.signal} s before the limit (MATRIX_SLURM_SIGNAL), and no "
            f"cell starts in as long before that; give {-(-found.signal // 20)}m or more"
        )
    return found


def seconds_of(text: str) -> int | None:
    """Return the seconds of 90m, 4h, 2d, 4:00:00 or 1-12:00:00; None for any other text."""
    if span := _SPAN.fullmatch(text):
        return int(span[1]) * _SECONDS[span[2]]
    if clock := _CLOCK.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return None


def _limit(raw: RawSpec, problems: list[str]) -> int:
    value = raw.texts["SLURM_TIME_LIMIT"]
    seconds = seconds_of(value)
    if not seconds:
        place = raw.place("SLURM_TIME_LIMIT")
        problems.append(f"{place}: {value!r} is not a time such as 90m, 4h, 2d or 1-12:00:00")
    return seconds or 0


def _lines(raw: RawSpec, problems: list[str]) -> tuple[str, ...]:
    """Return the lines of the site's file."""
    name, place = raw.texts["SLURM_LINES"], raw.place("SLURM_LINES")
    if not name:
        return ()
    try:
        found = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        problems.append(f"{place}: {name} cannot be read: {reason}")
        return ()
    lines = [line.rstrip() for line in found if line.startswith("#SBATCH")]
    others = [line for line in found if line.strip() and not line.startswith("#")]
    if others:
        problems.append(
            f"{place}: {name} has a line that is no #SBATCH line: {others[0].strip()!r}; what a "
            "node needs before Python starts belongs into your shell's profile or a module"
        )
    return tuple(lines)
