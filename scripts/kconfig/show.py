"""The tools that only read .config files: explain, listnewconfig, diffconfig."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gpt2.config.actions import TrainActions
from gpt2.config.aliases import ALIASES
from gpt2.config.bind import option_hints, unwrap
from gpt2.config.cli import parse
from gpt2.config.dotconfig import lines_of, read_text
from gpt2.config.errors import UserError
from gpt2.config.library import LIBRARIES
from gpt2.config.names import flag_of, nearest, word_of
from gpt2.config.options import Options
from gpt2.config.schema import REPOSITORY, ROOT_TREE
from gpt2.config.text import counted
from gpt2.config.typed import QUALIFIED, Auto, Size, Within
from gpt2.planning.calibration import LEAST_WIDTH, kept_choice
from scripts.kconfig import search
from scripts.kconfig.files import read, unmentioned
from scripts.kconfig.start import read_or_start


def explain(config: Path, option: str, typed: Sequence[str] = ()) -> None:
    """Print everything about one option, with the flags `typed` in place of those of `config`.

    Raises UserError for an unknown option or flag.
    """
    name = option.strip().lstrip("-").upper().replace("-", "_").removeprefix("CONFIG_")
    flags = _flags()
    if name not in flags:
        raise UserError(_unknown(option, name, flags))
    given = _parsed(typed)
    options = read_or_start(config)
    problems = options.check()
    _add(options, given)
    problems += [problem for problem in options.check() if problem.startswith("--")]
    for problem in problems:
        print(f"not counted: {problem}", file=sys.stderr)
    item = options.choices.get(name) or options.symbols[name]
    node = item.nodes[0]
    value = options.value(name)
    print("   ".join(part for part in (name, flags[name], node.prompt[0]) if part))
    for line in (node.help or "").splitlines():
        print(f"  {line}".rstrip())
    print(f"  value: {'not used with these options' if value is None else value or repr('')}")
    if name == "PRECISION" and value == "auto":
        print(f"  on this CPU: {_on_this_cpu(options)}")
    print(f"  from: {_source(options, name)}")
    if limits := _limits(options, name):
        print(f"  range: {limits}")
    for line in _defaults(options, name):
        print(f"  {line}")
    for condition, met in options.conditions(name).items():
        print(f"  requires: {condition} ({'the case' if met else 'not the case'})")
    print(f"  declared: {os.path.relpath(node.filename, REPOSITORY)}:{node.linenr}")
    if name in options.choices:
        for word, member in options.members(name).items():
            said = " ".join((options.symbols[member].nodes[0].help or "").split())
            if said:
                print(
                    textwrap.fill(
                        f"{word}: {said}", 90, initial_indent=" " * 4, subsequent_indent=" " * 8
                    )
                )


def _flags() -> dict[str, str]:
    """Return the flag of every option and every value of a choice; empty for those of matrices."""
    options, train = Options(ROOT_TREE), Options().names()
    flags = {known: flag_of(known) if known in train else "" for known in options.names()}
    for choice in options.choices:
        for word, member in options.members(choice).items():
            flags[member] = f"{flags[choice]} {word}".strip()
    return flags


def _parsed(typed: Sequence[str]) -> Options:
    """Return the options in flags of train.py.

    Raises UserError in its name.
    """
    try:
        options, _ = parse("train.py", "", typed, TrainActions)
        if options.problems:
            raise UserError(*options.problems)
    except UserError as error:
        raise UserError(*error.messages, code=error.code, program="train.py") from error
    return options


def _add(options: Options, typed: Options) -> None:
    """Give the values of `typed` to `options`."""
    for name, value in typed.given.items():
        choice = typed.symbols[name].choice
        if choice is None:
            options.give(name, value.value, value.where)
        else:
            options.give(choice.name, word_of(name, choice.name), value.where)


def _defaults(options: Options, name: str) -> Iterator[str]:
    """Yield the lines of a table of the defaults, where there are several."""
    found = options.defaults(name)
    if len(found) < 2:
        return
    yield "defaults, the first that fits (*: now):"
    values = [default.value or "none" for default in found]
    width = max(map(len, values))
    for value, default in zip(values, found, strict=True):
        yield f"  {'*' if default.holds else ' '} {value:<{width}}  {default.when or 'else'}"


def _on_this_cpu(options: Options) -> str:
    """Return the result of --precision auto on this CPU, from stored measurements.

    Raises UserError.
    """
    choice = kept_choice(int(options.value("N_EMBD") or LEAST_WIDTH))
    return f"{choice.precision}, as {choice.why}"


def _unknown(option: str, name: str, flags: Mapping[str, str]) -> str:
    """Return that the option does not exist, and which ones may be meant."""
    if not name:
        return "which option? make explain OPTION=learning-rate"
    if ours := ALIASES.get(name.lower().replace("_", "-")):
        return f"option {option!r} not found; here it is {ours.split(' ')[0]}"
    within = [known for known in flags if name in known and flags[known].count(" ") == 0]
    if 1 < len(within) <= 20:
        return f"option {option!r} not found; options with it in their names: {', '.join(within)}"
    pages = "docs/faq.md and docs/troubleshooting.md explain words such as OOM and NaN"
    word = option.strip().lstrip("-")
    count = len(search.matching(word, [*search.options(), *search.actions()]))
    way = f"; make explain OPTION=/{word} finds {counted(count, 'option')}" if count else ""
    return f"no such option: {option!r}{nearest(name, list(flags))}{way}; {pages}"


def _source(options: Options, name: str) -> str:
    selection = options.choices[name].selection if name in options.choices else None
    if (selection.name if selection else name) not in options.given:
        return "its default"
    where = options.origin(name)
    if any(problem.startswith(where) for problem in options.check()):
        return f"its default; {where} is refused"
    choice = options.symbols[name].choice if name in options.symbols else None
    differs = (choice.name if choice else name) in options.minimal()
    return where + ("" if differs else ", the same as its default")


def _limits(options: Options, name: str) -> str:
    if name in options.choices:
        members = list(options.members(name))
        if name in QUALIFIED:  # users type po:NAME
            members.remove(QUALIFIED[name][0])
            members += [*(f"{prefix}:NAME" for prefix in LIBRARIES), "module:Class"]
        return ", ".join(members)
    if bounds := options.bounds(name):
        return bounds
    if name in options.symbols and (ranges := options.symbols[name].ranges):
        return ", ".join(f"{low.str_value}..{high.str_value}" for low, high, _ in ranges)
    _, notes = unwrap(option_hints(options).get(name, str))
    words = {Auto: "auto", Size: "a size (6G, 500M or 6GiB)"}
    return " or ".join(
        note.interval if isinstance(note, Within) else words[type(note)]
        for note in notes
        if isinstance(note, Auto | Size | Within)
    )


def listnewconfig(config: Path) -> None:
    """Print the options that `config` does not mention, as lines of a .config with defaults."""
    options = read(config) if config.exists() else Options(ROOT_TREE)
    for name in unmentioned(options):
        item = options.choices.get(name)
        symbol = item.selection if item else options.symbols[name]
        # As in the kernel: a line for the option, not a .config's comment for n.
        print(
            f"CONFIG_{symbol.name}=n" if symbol.str_value == "n" else symbol.config_string.strip()
        )


def diffconfig(old: Path, new: Path) -> None:
    """Print the differences between the lines of two files, as the kernel's diffconfig does.

    First lines that only `old` has, then changed ones, then lines that only `new` has.
    """
    before, after = _lines(old), _lines(new)
    for name in sorted(before.keys() - after.keys()):
        print(f"-{name} {before[name]}")
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            print(f" {name} {before[name]} -> {after[name]}")
    for name in sorted(after.keys() - before.keys()):
        print(f"+{name} {after[name]}")


def _lines(path: Path) -> dict[str, str]:
    """Return {name: value as written} of a .config of any version, also for unknown options."""
    found = list(lines_of(read_text(path)))
    if problems := [f"{path}:{line.number}: {line.problem}" for line in found if line.problem]:
        raise UserError(*problems)
    return {line.name: line.value for line in found}
