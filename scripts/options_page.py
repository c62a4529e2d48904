"""Write docs/options.md: every option of train.py and of the test matrix, from the Kconfig tree.

`--check FILE` compares FILE with the page as generated now; `--write FILE` writes it.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("options_page.py")

from collections.abc import Iterator, Sequence

from gpt2.config.cli import Parser
from gpt2.config.entry import run_entry
from gpt2.config.errors import UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE

_HEAD = """# Options

Every option, in the order of `make menuconfig`, with what holds without a `.config`.
`make explain OPTION=NAME` says what holds in yours, and which file declares it. In `.config`,
`--batch-size` is `CONFIG_BATCH_SIZE`. Options without a flag are those of the test matrix.
This page is made by `make options-page`."""


def main(argv: Sequence[str]) -> int:
    """Print, check or write the page; return the exit code.

    Raises UserError.
    """
    parser = Parser("options_page.py", "The options as a page in Markdown.")
    parser.add_argument("--check", type=Path, metavar="FILE", help="is FILE the page of today?")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page to FILE")
    asked = parser.parse_args(argv)
    text = "\n".join(page()) + "\n"
    if asked.check is not None:
        if not asked.check.is_file() or asked.check.read_text(encoding="utf-8") != text:
            raise UserError(f"{asked.check} is not the page of today: make options-page writes it")
    elif asked.write is not None:
        asked.write.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    options = Options(ROOT_TREE)
    flags = set(Options().names())
    yield _HEAD
    for depth, name in options.outline():
        if depth:
            yield ""
            yield f"{'#' * (1 + depth)} {name}"
        else:
            yield from _option(options, name, name in flags)


def _option(options: Options, name: str, has_flag: bool) -> Iterator[str]:
    node = (options.choices.get(name) or options.symbols[name]).nodes[0]
    yield ""
    flag = f"`{flag_of(name)}`" if has_flag else f"`CONFIG_{name}`"
    yield f"**{flag}** {node.prompt[0]}"
    facts = []
    if (value := options.value(name)) is not None:
        facts.append(f"default `{value}`" if value else "no default")
    if name in options.choices:
        facts.append("one of " + ", ".join(f"`{word}`" for word in options.members(name)))
    elif bounds := options.bounds(name):
        facts.append(f"range {bounds}")
    if conditions := list(options.conditions(name)):
        facts.append("with " + " and ".join(f"`{condition}`" for condition in conditions))
    if facts:
        yield f"({'; '.join(facts)})"
    if node.help:
        yield ""
        yield " ".join(node.help.split())
    if name not in options.choices:
        return
    yield ""
    for word, member in options.members(name).items():
        said = " ".join((options.symbols[member].nodes[0].help or "").split())
        if said:
            yield f"- `{word}`: {said}"


if __name__ == "__main__":
    run_entry("options_page.py", lambda: main(sys.argv[1:]))
