"""List the options with a word in their name, title or help: make explain OPTION=/oom."""

from __future__ import annotations

import dataclasses
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("find_option.py")

from typing import get_type_hints

from gpt2.config.actions import Help, TrainActions
from gpt2.config.aliases import ALIASES
from gpt2.config.bind import unwrap
from gpt2.config.cli import Parser
from gpt2.config.entry import run_entry
from gpt2.config.errors import UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE

#: Columns of a line, without the blanks between.
_COLUMNS = 98


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of the list: its typed name, its title and its help."""

    typed: str
    title: str
    help: str


def main(argv: Sequence[str]) -> int:
    """Print a line for each option found.

    Raises UserError without any.
    """
    parser = Parser(prog="find_option.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("word", help="a word, or its beginning")
    word = parser.parse_args(argv).word.strip().lstrip("/").strip()
    if not word:
        raise UserError("which word? make explain OPTION=/resume")
    found = matching(word, [*options(), *actions()])
    if not found:
        raise UserError(
            f"no option has {word!r} in its name, title or help; docs/faq.md and "
            "docs/troubleshooting.md explain more words"
        )
    width = min(36, max(len(entry.typed) for entry, _ in found))
    for entry, sentence in found:
        print(f"{entry.typed:{width}}  {entry.title}")
        if sentence:
            print(textwrap.indent(textwrap.fill(sentence, _COLUMNS - width), " " * (width + 2)))
    print("make explain OPTION=NAME says all about one of them")
    return 0


def matching(word: str, entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """Return the entries with `word`, each with the sentence of its help that has it, or nothing.

    nanoGPT's and Hugging Face's names of an option count as names. Names and titles come first.
    """
    begins = re.compile(rf"(?<![A-Za-z0-9]){re.escape(word)}", re.IGNORECASE)
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


if __name__ == "__main__":
    run_entry("find_option.py", lambda: main(sys.argv[1:]))
