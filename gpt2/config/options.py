"""Options with values from flags and .config lines; refuses what Kconfig would ignore.

kconfiglib only warns about a bad value, and ignores a value for a hidden symbol. Here both are
errors, all collected before any is reported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import kconfiglib as kc

from gpt2.config import plugins, scratch
from gpt2.config.dotconfig import lines_of, read_text, unquoted
from gpt2.config.names import flag_of, nearest, word_of
from gpt2.config.schema import TRAIN_TREE, Schema
from gpt2.config.typed import NUMBERED, PLUGIN_PACKAGES, QUALIFIED, TIMES

#: Characters that a line of UTF-8 text cannot hold: controls, line ends, undecodable bytes.
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

#: How Python represents undecodable bytes of a command line.
_BYTES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Assignment:
    """A value given by the user: symbol or choice name, text, and its origin."""

    name: str
    value: str
    where: str


def numbered(choice: str, value: str) -> str | None:
    """Return the number in a value such as cuda:1 of a choice that takes one; else None."""
    member, colon, number = value.partition(":")
    return number if colon and member == NUMBERED[choice][0] and number.isdecimal() else None


class Options(Schema):
    """The options of one Kconfig tree with the values given so far."""

    def __init__(self, path: Path = TRAIN_TREE) -> None:
        super().__init__(path)
        self.given: dict[str, Assignment] = {}
        #: Lines that set options which follow from others.
        self.derived: list[Assignment] = []
        self.problems: list[str] = []
        #: Flags of choices whose value was refused.
        self._refused: set[str] = set()

    def give(self, name: str, value: str, where: str) -> None:
        """Set option or choice `name`; problems are collected, not raised."""
        if ":" in value and name in QUALIFIED:
            member, symbol = QUALIFIED[name]
            self.give(name, member, where)
            self.give(symbol, value, where)
        elif name in NUMBERED and (number := numbered(name, value)) is not None:
            member, symbol = NUMBERED[name]
            self.give(name, member, where)
            self.give(symbol, number, where)
        elif name in self.choices:
            members = self.members(name)
            if lacking := plugins.lack(name, value, members):
                self._refused.add(flag_of(name))
                self.problems.append(f"{where} {value!r}: {lacking}")
                return
            if value not in members and value.lower() in members:  # adamW
                value = value.lower()
            if value not in members:
                self._refused.add(flag_of(name))
                hint = nearest(value, list(members))
                known = ", ".join(members)
                known += ", or LIBRARY:NAME" if name in QUALIFIED else ""
                known += f", or {NUMBERED[name][0]}:N" if name in NUMBERED else ""
                self.problems.append(f"{where} {value!r} is unknown{hint} (choose from {known})")
                return
            for rival in members.values():
                self.given.pop(rival, None)
            self._set(Assignment(members[value], "y", where))
        else:
            self._set(Assignment(name, value, where))

    def _set(self, given: Assignment) -> None:
        symbol = self.symbols[given.name]
        value = given.value
        if symbol.orig_type == kc.BOOL:
            well_formed = value in ("y", "n")
        elif symbol.orig_type == kc.INT:
            well_formed = re.fullmatch(r"-?[0-9]+", value) is not None
        else:
            well_formed = _NO_TEXT.search(value) is None
        if not well_formed:
            expected = {kc.BOOL: "y or n", kc.INT: "a whole number"}
            wanted = expected.get(symbol.orig_type, "one line of text")
            if given.name in TIMES and given.where.startswith("--"):
                wanted = "a time; write 90, 90s, 5m or 1h"
            if _BYTES.search(value):
                wanted += ": it has bytes that are not UTF-8 here; use a name in UTF-8 (ln -s), or"
                wanted += " start with PYTHONUTF8=1 where the locale is at fault"
            self.problems.append(f"{given.where}: {value!r} is not {wanted}")
            return
        self.given[given.name] = given
        symbol.set_value(value)

    def read(self, path: Path) -> None:
        """Give every line of a .config file.

        Raises UserError when it cannot be read.
        """
        seen: dict[str, int] = {}
        for line in lines_of(read_text(path)):
            name, where = line.name, f"{path}:{line.number}"
            if line.problem:
                self.problems.append(f"{where}: {line.problem}")
            elif name not in self.symbols:
                self.problems.append(f"{where}: CONFIG_{name} is unknown{self._hint(name)}")
            elif name in seen:
                self.problems.append(
                    f"{where}: CONFIG_{name} is set again (first on line {seen[name]})"
                )
            else:
                seen[name] = line.number
                if line.unset and self.symbols[name].orig_type != kc.BOOL:
                    self.problems.append(f"{where}: CONFIG_{name} needs a value; or drop the line")
                    continue
                self._read_value(name, line.value, f"{where}: CONFIG_{name}")

    def _hint(self, name: str) -> str:
        """Return a hint for an unknown symbol: what its plug-in lacks, or similar names."""
        for choice in PLUGIN_PACKAGES:
            if name.startswith(choice + "_") and choice in self.choices:
                plugin = word_of(name, choice)
                if lacking := plugins.lack(choice, plugin, self.members(choice)):
                    return f": {lacking}"
        return nearest(name, list(self.symbols))

    def _read_value(self, name: str, text: str, where: str) -> None:
        symbol = self.symbols[name]
        if not any(node.prompt for node in symbol.nodes):
            self.derived.append(Assignment(name, text, where))
        elif symbol.orig_type == kc.STRING:
            value = unquoted(text)
            if value is None:
                comment = "a comment after the value" if "#" in text else "missing quotes"
                self.problems.append(f'{where}={text} has {comment}; write CONFIG_{name}="value"')
                return
            self._set(Assignment(name, value, where))
        elif "#" in text:
            self.problems.append(
                f"{where}={text} has a comment after the value; put it on a line of its own"
            )
        elif symbol.choice and text == "y" and (rival := self._chosen(symbol)):
            self.problems.append(f"{where}=y contradicts CONFIG_{rival}=y: choose one")
        else:
            self._set(Assignment(name, text, where))

    def _chosen(self, symbol: kc.Symbol) -> str | None:
        for other in symbol.choice.syms:
            given = self.given.get(other.name)
            if given and given.value == "y":
                return str(other.name)
        return None

    def check(self) -> list[str]:
        """Return every problem with the given values: out of range, or without effect."""
        found = list(self.problems)
        named_by = {symbol: flag_of(choice) for choice, (_, symbol) in QUALIFIED.items()}
        for given in self.given.values():
            symbol = self.symbols[given.name]
            in_file = not given.where.startswith("--")
            if symbol.str_value == given.value and (symbol.visibility or in_file):
                continue  # also a full file's line for a hidden symbol
            if symbol.choice and given.value == "n":
                if not self._chosen(symbol):
                    found.append(f"{given.where} cannot be n: choose another of its group")
            elif given.where == named_by.get(given.name):
                continue  # the choice with this name reports the problem
            elif unmet := (self.unmet if in_file else self.unmet_flags)(given.name):
                if self._refused & set(" ".join(unmet).split()):
                    continue  # the refused value may be what it needs
                what = " has no effect here"
                if symbol.choice and not self.unmet(symbol.choice.name):  # others can be chosen
                    what = f": {word_of(given.name, symbol.choice.name)!r} cannot be chosen here"
                found.append(f"{given.where}{what}: it needs {' and '.join(unmet)}")
            elif bounds := self.bounds(given.name):
                found.append(f"{given.where}: {given.value} is out of range {bounds}")
            else:
                found.append(f"{given.where}: {given.value!r} cannot be set here")
        found += self._half_plugins()
        for line in self.derived:
            if (now := self.symbols[line.name].str_value) != line.value:
                found.append(
                    f"{line.where}={line.value} follows from other options, and is {now} by them: "
                    "drop the line"
                )
        return found

    def _half_plugins(self) -> list[str]:
        """Return what the chosen plug-ins lack."""
        chosen = {name: self.value(name) for name in PLUGIN_PACKAGES if name in self.choices}
        lacking = {
            name: plugins.lack(name, value, [value]) for name, value in chosen.items() if value
        }
        return [f"{self.origin(name)}: {what}" for name, what in lacking.items() if what]

    def value(self, name: str) -> str | None:
        """Return the final text of an option; None when it does not apply."""
        if name in self.choices:
            selection = self.choices[name].selection
            return word_of(selection.name, name) if selection else None
        value: str = self.symbols[name].str_value
        if value in ("", "n") and kc.expr_value(self.symbols[name].direct_dep) == 0:
            return None
        return value

    def default(self, name: str) -> str | None:
        """Return the text that an option would have if it were not given."""
        others = Options(self.path)
        for given in self.given.values():
            if given.name != name:
                others.give(given.name, given.value, given.where)
        return others.value(name)

    def origin(self, name: str) -> str:
        """Return where an option's value was given, or its flag when it is the default."""
        symbol = name
        if name in self.choices and (selection := self.choices[name].selection):
            symbol = selection.name
        given = self.given.get(symbol)
        return given.where if given else flag_of(name)

    def minimal(self) -> dict[str, str]:
        """Return the options that differ from their defaults, as {name: value}."""
        reduced = Options(self.path)
        with scratch.folder() as folder:
            path = folder / "minimal"
            self.kconfig.write_min_config(str(path), header="")
            reduced.read(path)
        differing = {}
        for name in reduced.given:
            choice = reduced.symbols[name].choice
            option = choice.name if choice else name
            differing[option] = str(reduced.value(option))
        return differing

    def full_text(self) -> str:
        """Return the full .config with every value, ending in a newline."""
        with scratch.folder() as folder:
            path = folder / "full"
            self.kconfig.write_config(str(path), header="", save_old=False)
            return path.read_text(encoding="utf-8")
