"""List the options with a word in their name, title or help: make explain OPTION=/oom."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("find_option.py")

from gpt2.config.cli import Parser
from gpt2.config.entry import run_entry
from gpt2.config.errors import UserError
from scripts.kconfig.search import actions, matching, options

#: Columns of a line, without the blanks between.
_COLUMNS = 98


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


if __name__ == "__main__":
    run_entry("find_option.py", lambda: main(sys.argv[1:]))
