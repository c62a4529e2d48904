"""Other differences between two compared rows, shown beside every claim.

Two methods differ in more than their criterion, two optimizers in more than their update rule: in
pattern and schedule, in betas, decay, rate and epsilon. A claim about the whole is not a claim
about one part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from gpt2.config.names import flag_of
from gpt2.config.options import Options
from scripts.reports.option_values import of_pruning, plain_value
from scripts.reports.rows import DENSE, MODEL_SIZE, Row, differences, paired
from scripts.reports.runs import Run

#: Options that together determine when weights are pruned; they count as one.
_TIMING = ("PRUNING_SCHEDULE", "PRUNING_START", "PRUNING_END")
#: Common names of an option's last part, where they differ.
_WORDS = {"alpha": "beta2", "eps": "epsilon", "sparsity-pattern": "pattern"}
#: Patterns in words.
_PATTERNS = {"row": "by rows", "layer": "by matrices", "erk": "ERK", "lamp": "LAMP"}


def confounds(row: Row, against: Row) -> list[str]:
    """Return the differences between `row` and `against`, a phrase each, the row's value first.

    Left out: the two names that are compared; options that only one side's optimizer or method has;
    the differences in the names of two rows of one optimizer and method; and, where one side is
    dense, all of pruning and the size of the model.
    """
    found = []
    if (row.optimizer, row.method) != (against.optimizer, against.method):
        ours, theirs = _settings(row, against), _settings(against, row)
        tuned = {_word(name) for name in row.chosen & against.chosen}
        for name in ours.keys() & theirs.keys():
            if plain_value(ours[name]) != plain_value(theirs[name]):
                how = ", tuned for each" if name in tuned else ""
                found.append(f"{name}{how} ({ours[name]} against {theirs[name]})")
    return [*sorted(found), *_circumstances(row, against)]


def _settings(row: Row, other: Row) -> dict[str, str]:
    """Return the options of a row that may differ from those of `other`, by their common name."""
    pruned = DENSE not in (row.method, other.method)
    alike = (row.method == DENSE) == (other.method == DENSE)
    names = {name for name in differences(row, other) if name in row.options}
    names |= {name for name in row.options if own_name(name) != name}
    found = {
        _word(name): _PATTERNS.get(row.options[name], row.options[name])
        for name in sorted(names)
        if name not in ("OPTIMIZER", "PRUNING_METHOD", *_TIMING)
        and (pruned or not of_pruning(name))
        and (alike or name not in MODEL_SIZE)
    }
    if pruned:
        found["schedule in % of the run"] = _timing(row.options)
    return found


def _timing(options: Mapping[str, str]) -> str:
    """Return when weights are pruned, from the options of a schedule that the method has."""
    schedule, start, end = (options.get(name) for name in _TIMING)
    if end is None and schedule is None and "CALIBRATION_SEQUENCES" not in options:
        return "sparse throughout, in fixed places"  # one-shot methods have calibration sequences
    if end is None:
        return f"{'at once' if schedule else 'one shot'} at {_share(start)}"
    span = f"{_share(start)} to {_share(end)}"
    return f"gradual, {schedule}, {span}" if schedule else f"sparse throughout, moving {span}"


def _share(text: str | None) -> str:
    value = plain_value(text)
    return f"{100.0 * value:g}" if isinstance(value, float) else "?"


def _word(name: str) -> str:
    """Return an option's name without its owner's: ADAMW_BETA2 and LION_BETA2 are beta2."""
    text = flag_of(own_name(name)).removeprefix("--")
    return _WORDS.get(text, text)


def own_name(name: str) -> str:
    """Return an option's name without that of its optimizer or method."""
    for prefix in _prefixes():
        if name.startswith(prefix):
            # MUON_ADAMW_BETA2 is the beta2 of the AdamW inside Muon.
            return own_name(name[len(prefix) :])
    return name


@cache
def _prefixes() -> tuple[str, ...]:
    options = Options()
    words = [word for choice in ("OPTIMIZER", "PRUNING_METHOD") for word in options.members(choice)]
    return tuple(f"{word.upper().replace('-', '_')}_" for word in words)


def _circumstances(row: Row, against: Row) -> list[str]:
    """Return differences between paired runs: version of torch, threads, unknown device."""
    pairs = paired(row, against)
    found = []
    for title, read in (("torch", _torch), ("threads", _threads)):
        if any(read(ours) != read(theirs) for ours, theirs in pairs):
            sides = [_values([read(pair[side]) for pair in pairs]) for side in (0, 1)]
            found.append(f"{title} ({sides[0]} against {sides[1]})")
    names = [(ours.record.device_name, theirs.record.device_name) for ours, theirs in pairs]
    if any((ours is None) != (theirs is None) for ours, theirs in names):
        found.append("device (not on record for one side)")
    return found


def _torch(run: Run) -> str:
    return str((run.record.versions or {}).get("torch") or "unknown")


def _threads(run: Run) -> str:
    return "unknown" if run.record.threads is None else str(run.record.threads)


def _values(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))
