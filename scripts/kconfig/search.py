"""Search the options by a word in their name, title or help."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

from gpt2.config.actions import Help, TrainActions
from gpt2.config.aliases import ALIASES
from gpt2.config.bind import unwrap
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of the list: its typed name, its title and its help."""

    typed: str
    title: str
    help: str


def _beginning(word: str) -> re.Pattern[str]:
    """Return a pattern of `word` where a word begins: oom is not in room."""
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(word)}", re.IGNORECASE)


def search_help(menu: Any) -> None:
    """Make the search of kconfiglib's menuconfig, a module, look in help texts, too.

    It draws the list of what it found in names and titles: what is in a help text follows.
    """
    draw = menu._draw_jump_to_dialog

    def drawn(*given: Any) -> None:
        text, bad, found = given[4], given[7], given[8]
        if text.strip() and not bad:
            found += in_help(text, menu._sorted_sc_nodes(), found)
        draw(*given)

    menu._draw_jump_to_dialog = drawn


def in_help(text: str, nodes: Sequence[Any], found: Sequence[Any]) -> list[Any]:
    """Return the entries of the menu with `text` in their help, without those in `found`."""
    begins, known = _beginning(" ".join(text.split())), set(map(id, found))
    return [
        node
        for node in nodes
        if node.prompt
        and id(node) not in known
        and begins.search(" ".join((node.help or "").split()))
    ]


def matching(word: str, entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """Return the entries with `word`, each with the sentence of its help that has it, or nothing.

    nanoGPT's and Hugging Face's names of an option count as names. Names and titles come first.
    """
    begins = _beginning(word)
    alias = ALIASES.get(word.lower().replace("_", "-"), " ").split(" ")[0]
    named, said = [], []
    for entry in entries:
        sentences = re.split(r"(?<=[a-z0-9)]\.) ", " ".join(entry.help.split()))
        sentence = next((text for text in sentences if begins.search(text)), "")
        if begins.search(f"{entry.typed} {entry.title}") or entry.typed.split(" ")[0] == alias:
            named.append((entry, sentence))
        elif sentence:
            said.append((entry, sentence))
    return named + said


def options() -> Iterator[Entry]:
    """Yield every option, and every value of a choice with its own help."""
    found = Options(ROOT_TREE)
    flags = set(Options().names())  # the axes of the matrix have no flags
    for name in found.names():
        typed = flag_of(name) if name in flags else f"CONFIG_{name}"
        node = (found.choices.get(name) or found.symbols[name]).nodes[0]
        yield Entry(typed, node.prompt[0], node.help or "")
        members = found.members(name) if name in found.choices else {}
        for value, member in members.items():
            node = found.symbols[member].nodes[0]
            if node.prompt and node.help:
                yield Entry(f"{typed} {value}", node.prompt[0], node.help)


def actions() -> Iterator[Entry]:
    """Yield the actions of train.py: flags that are not options of the run."""
    hints = get_type_hints(TrainActions, include_extras=True)
    for field in dataclasses.fields(TrainActions):
        text = next(note for note in unwrap(hints[field.name])[1] if isinstance(note, Help)).text
        yield Entry(flag_of(field.name), text, "")
