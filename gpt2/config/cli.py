"""The command line of every entry: its flags from the Kconfig tree, its actions from actions.py."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_type_hints

import kconfiglib as kc

from gpt2.config.actions import Help
from gpt2.config.bind import bind, convert, unwrap
from gpt2.config.errors import UserError
from gpt2.config.names import flag_of, nearest
from gpt2.config.options import Options
from gpt2.config.typed import PATHS, QUALIFIED, REPEATABLE
from gpt2.config.version import VERSION

Actions = TypeVar("Actions")


_FLAG = re.compile(r"--[a-z][a-z0-9-]*(=|$)")


class Parser(argparse.ArgumentParser):
    """argparse whose errors are UserErrors: one line, and no usage text in front of it."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message} (see --help)")


def parse(
    program: str,
    description: str,
    argv: Sequence[str],
    actions: type[Actions],
    names: Sequence[str] | None = None,
) -> tuple[Options, Actions]:
    """Parse `argv` into options (those in `names`, or all) and an entry's actions.

    Of a flag given twice the last counts, so that a command line can be extended at its end. Bad
    option values are collected in the returned Options; raises UserError for unknown flags, flags
    without a value and bad actions, together with what `bind` finds in the options.
    """
    options = Options()
    chosen = options.names() if names is None else list(names)
    parser = Parser(
        prog=program,
        description=description,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=100),
    )
    parser.add_argument("--version", action="version", version=f"{program} {VERSION}")
    _add_actions(parser, actions)
    _add_options(parser, options, chosen)
    joined, problems = _join(argv, parser)
    try:
        found, unknown = parser.parse_known_args(joined)
    except UserError as error:
        raise UserError(*problems, *error.messages) from None
    for name in chosen:
        value = getattr(found, name)
        if isinstance(value, bool):
            value = "y" if value else "n"
        elif name in REPEATABLE and (more := getattr(found, REPEATABLE[name])):
            value = _one_list([value or "", *more])
        if value is not None:
            path = name in PATHS and value != ""
            options.give(name, os.path.abspath(value) if path else value, flag_of(name))
    problems += _contradictions(found, chosen)
    problems += [_unknown(argument, parser) for argument in _flags_first(unknown)]
    ready, refused = _read_actions(found, actions)
    problems += refused
    if problems:
        try:
            bind(options)
        except UserError as error:
            problems += error.messages
        raise UserError(*problems)
    return options, actions(**ready)


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide a command line at the first --: what the entry takes, and flags of train.py."""
    words = list(argv)
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut + 1 :]


def _one_list(values: Sequence[str]) -> str:
    """Join lists of key=value into one; of a key given twice the last counts."""
    parts: dict[str, str] = {}
    for part in ",".join(values).split(","):
        key = part.partition("=")[0]
        parts.pop(key, None)
        parts[key] = part
    return ",".join(part for part in parts.values() if part)


def _contradictions(found: argparse.Namespace, chosen: Sequence[str]) -> list[str]:
    """Say where PREFIX:NAME was given to a choice and another to the option that holds it."""
    problems = []
    for choice, (_, symbol) in QUALIFIED.items():
        if choice in chosen and symbol in chosen:
            first, second = getattr(found, choice), getattr(found, symbol)
            if first and second and ":" in first and first != second:
                problems.append(
                    f"{flag_of(symbol)} {second} contradicts {flag_of(choice)} {first}: "
                    "give one of them"
                )
    return problems


def _join(argv: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """Join flags to their values, which may so begin with a dash; list what cannot be joined."""
    valued = {
        text: action.nargs != 0 for action in parser._actions for text in action.option_strings
    }
    joined: list[str] = []
    problems: list[str] = []
    waiting = list(reversed(argv))
    while waiting:
        argument = waiting.pop()
        flag, equals, value = argument.partition("=")
        # argparse gives a value of "--" as no value at all, and no option of ours takes one.
        if argument == "--":
            problems.append("unexpected argument -- (see --help)")
        elif flag in valued and (value == "--" or (not equals and waiting[-1:] == ["--"])):
            problems.append(f"{flag} cannot be -- (see --help)")
            if not equals:
                waiting.pop()
        elif flag not in valued or (valued[flag] and equals):
            joined.append(argument)
        elif not valued[flag]:
            if equals:
                problems.append(f"{argument}: {flag} takes no value (see --help)")
            else:
                joined.append(argument)
        elif waiting and waiting[-1] not in valued and not _FLAG.match(waiting[-1]):
            joined.append(f"{flag}={waiting.pop()}")
        else:
            problems.append(f"{flag} needs a value (see --help)")
    return joined, problems


def _add_actions(parser: argparse.ArgumentParser, actions: type[Any]) -> None:
    group = parser.add_argument_group("what to do")
    hints = get_type_hints(actions, include_extras=True)
    for field in dataclasses.fields(actions):
        kind, notes = unwrap(hints[field.name])
        help_ = next(note for note in notes if isinstance(note, Help))
        required = field.default is dataclasses.MISSING
        text = help_.text
        if not required and field.default not in (None, False):
            text += f" (default {field.default!r})"
        text = text.replace("%", "%%")
        flag = flag_of(field.name)
        if kind is bool:
            if field.default is None:
                group.add_argument(
                    flag, dest=field.name, action=argparse.BooleanOptionalAction, help=text
                )
            else:
                group.add_argument(
                    flag, dest=field.name, action="store_const", const=True, help=text
                )
        else:
            group.add_argument(
                flag,
                dest=field.name,
                metavar=help_.metavar or kind.__name__.upper(),
                required=required,
                help=text,
            )


def _read_actions(
    found: argparse.Namespace, actions: type[Any]
) -> tuple[dict[str, Any], list[str]]:
    hints = get_type_hints(actions, include_extras=True)
    ready: dict[str, Any] = {}
    refused: list[str] = []
    for field in dataclasses.fields(actions):
        value = getattr(found, field.name)
        if isinstance(value, str):
            kind, notes = unwrap(hints[field.name])
            try:
                value = _path(value) if kind is Path else convert(_text(value), kind, notes)
            except ValueError as error:
                refused.append(f"{flag_of(field.name)}: {error}")
        if value is not None:
            ready[field.name] = value
    return ready, refused


def _path(text: str) -> Path:
    if not text:
        raise ValueError("a path is needed")
    return Path(text)


def _text(argument: str) -> str:
    """Return an argument as text, whatever the locale made of its bytes. Raises ValueError.

    Where the locale has no such character, Python keeps the byte as half a surrogate pair.
    """
    try:
        argument.encode()
        return argument
    except UnicodeEncodeError:
        pass
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} of {argument!r} is not UTF-8; give text") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"{argument!r} has half a character at {error.start}") from None


def _add_options(parser: argparse.ArgumentParser, options: Options, chosen: Sequence[str]) -> None:
    groups: dict[str, Any] = {}
    for node in options.kconfig.node_iter(unique_syms=True):
        name = str(node.item.name) if isinstance(node.item, kc.Symbol | kc.Choice) else ""
        if name not in chosen or not node.prompt:
            continue
        menu = node.parent.prompt[0] if node.parent.prompt else "options"
        if menu not in groups:
            groups[menu] = parser.add_argument_group(menu.lower())
        _add_option(groups[menu], options, name, node.prompt[0])


def _add_option(group: Any, options: Options, name: str, prompt: str) -> None:
    default = options.value(name)
    text = prompt
    if default is None:
        text += f" (needs {' and '.join(options.unmet(name))})"
    else:
        text += f" (default {default or repr('')})"
    text = text.replace("%", "%%")
    flag = flag_of(name)
    if name in options.choices:
        members = "{" + ",".join(options.members(name)) + "}"
        if name in QUALIFIED:
            text += ", or LIBRARY:NAME"
        group.add_argument(flag, dest=name, metavar=members, help=text)
    elif options.symbols[name].orig_type == kc.BOOL:
        group.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, help=text)
    elif name in REPEATABLE:
        one = "one such argument; may be given again, of one key the last counts"
        group.add_argument(flag, dest=name, metavar="KEY=VALUE,...", help=text)
        group.add_argument(
            REPEATABLE[name], dest=REPEATABLE[name], metavar="KEY=VALUE", action="append", help=one
        )
    else:
        metavar = "N" if options.symbols[name].orig_type == kc.INT else "X"
        group.add_argument(flag, dest=name, metavar=metavar, help=text)


def _flags_first(unknown: list[str]) -> list[str]:
    """Of unknown arguments, the flags; the rest only where there is no flag they could follow."""
    flags = [argument for argument in unknown if argument.startswith("--")]
    return flags or unknown


def _unknown(argument: str, parser: argparse.ArgumentParser) -> str:
    known = [text for action in parser._actions for text in action.option_strings]
    hint = nearest(argument.partition("=")[0], known, most=2, likeness=0.65)
    kind = "unknown flag" if argument.startswith("-") else "unexpected argument"
    return f"{kind} {argument}{hint} (see --help)"
