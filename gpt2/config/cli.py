"""The command line of every entry: flags from the Kconfig tree, actions from actions.py."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_type_hints

import kconfiglib as kc

from gpt2.config.actions import LATEST, Help
from gpt2.config.aliases import hint, with_dashes
from gpt2.config.bind import bind, convert, unwrap
from gpt2.config.errors import UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options, numbered
from gpt2.config.sizes import in_seconds
from gpt2.config.text import argument_text
from gpt2.config.typed import NUMBERED, PATHS, QUALIFIED, REPEATABLE, TIMES, Size
from gpt2.config.version import VERSION

Actions = TypeVar("Actions")


#: Text after the flags in --help.
_EPILOGS = {
    "train.py": """\
examples:
  train.py --dataset shakespeare-char --model gpt2-mini --max-steps 500
  train.py --optimizer muon --pruning-method magnitude --target-sparsity 0.5
  train.py --plan --plan-for 24G          memory, disk and time on a GPU of 24 GB

make explain OPTION=learning-rate says all about one option, OPTION=/oom finds by a word""",
}
_FLAG = re.compile(r"--[a-z][a-z0-9_-]*(=|$)")


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors: one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message} (see --help)")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help of 100 columns that does not break flags at their dashes."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def parse(
    program: str,
    description: str,
    argv: Sequence[str],
    actions: type[Actions],
    names: Sequence[str] | None = None,
) -> tuple[Options, Actions]:
    """Parse `argv` into options (those in `names`, or all) and an entry's actions.

    If a flag is repeated, the last one is used, so that a command line can be extended at its end.
    Bad option values are collected in the returned Options. Raises UserError for unknown flags,
    flags without a value and bad actions, together with bind()'s problems of the options.
    """
    options = Options()
    chosen = options.names() if names is None else list(names)
    parser = Parser(
        prog=program,
        description=description,
        allow_abbrev=False,
        usage=f"{program} [options]",
        epilog=_EPILOGS.get(program),
        formatter_class=_Formatter,
    )
    whole = "--help-all" in argv
    if any(map(_is_plugins_own, _nodes(options, chosen).values())):
        all_help = "also show the options of single optimizers, pruning methods and so on"
        parser.add_argument("--help-all", action="help", help=all_help)
    parser.add_argument("--version", action="version", version=f"{program} {VERSION}")
    _add_actions(parser, actions)
    _add_options(parser, options, chosen, whole)
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
            if name in TIMES:
                value = in_seconds(value)
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
    """Split a command line at the first --: the entry's own words, and flags of train.py."""
    words = list(argv)
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut + 1 :]


def _one_list(values: Sequence[str]) -> str:
    """Join lists of key=value into one; of a repeated key the last is used."""
    parts: dict[str, str] = {}
    for part in ",".join(values).split(","):
        key = part.partition("=")[0]
        parts.pop(key, None)
        parts[key] = part
    return ",".join(part for part in parts.values() if part)


def _contradictions(found: argparse.Namespace, chosen: Sequence[str]) -> list[str]:
    """Return contradictions of PREFIX:NAME, or cuda:1, with the option that holds the same."""
    problems = []
    for choice, (_, symbol) in QUALIFIED.items():
        if choice in chosen and symbol in chosen:
            first, second = getattr(found, choice), getattr(found, symbol)
            if first and second and ":" in first and first != second:
                problems.append(
                    f"{flag_of(symbol)} {second} contradicts {flag_of(choice)} {first}: "
                    "give one of them"
                )
    for choice, (_, symbol) in NUMBERED.items():
        if choice in chosen and symbol in chosen:
            first, second = getattr(found, choice) or "", getattr(found, symbol)
            number = numbered(choice, first)
            if second and number is not None and int(number) != int(second):
                problems.append(
                    f"{flag_of(symbol)} {second} contradicts {flag_of(choice)} {first}: "
                    "give one of them"
                )
    return problems


def _join(argv: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """Join flags to values, which may begin with a dash; also return what cannot be joined."""
    valued = {
        text: action.nargs != 0 for action in parser._actions for text in action.option_strings
    }
    joined: list[str] = []
    problems: list[str] = []
    waiting = list(reversed(argv))
    while waiting:
        argument = waiting.pop()
        flag, equals, value = argument.partition("=")
        if flag not in valued and with_dashes(flag) in valued:  # --learning_rate, as in nanoGPT
            flag = with_dashes(flag)
            argument = flag + equals + value
        # argparse drops a value of "--", and no option of ours takes one.
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
        elif waiting and with_dashes(waiting[-1]) not in valued and not _FLAG.match(waiting[-1]):
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
        size = any(isinstance(note, Size) for note in notes)
        text = help_.text
        if not required and field.default not in (None, False):
            shown = "runs/latest" if field.default == LATEST else repr(field.default)
            text += f" (default: {shown})"
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
                metavar=help_.metavar or (size and "SIZE") or kind.__name__.upper(),
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
                value = _path(value) if kind is Path else convert(argument_text(value), kind, notes)
            except ValueError as error:
                refused.append(f"{flag_of(field.name)}: {error}")
        if value is not None:
            ready[field.name] = value
    return ready, refused


def _path(text: str) -> Path:
    if not text:
        raise ValueError("a path is needed")
    return Path(text)


def _nodes(options: Options, chosen: Sequence[str]) -> dict[str, kc.MenuNode]:
    """Return the menu entry of every option, in menu order."""
    found: dict[str, kc.MenuNode] = {}
    for node in options.kconfig.node_iter(unique_syms=True):
        name = str(node.item.name) if isinstance(node.item, kc.Symbol | kc.Choice) else ""
        if name in chosen and node.prompt:
            found[name] = node
    return found


def _is_plugins_own(node: kc.MenuNode) -> bool:
    """Return whether an option is declared by a plug-in: optimizers/sgd.Kconfig, not Kconfig."""
    return Path(node.filename).suffix == ".Kconfig"


def _add_options(
    parser: argparse.ArgumentParser, options: Options, chosen: Sequence[str], whole: bool
) -> None:
    groups: dict[str, Any] = {}
    for name, node in _nodes(options, chosen).items():
        menu = node.parent.prompt[0] if node.parent.prompt else "options"
        if menu not in groups:
            groups[menu] = parser.add_argument_group(menu.lower())
        shown = whole or not _is_plugins_own(node)
        _add_option(groups[menu], options, name, _help_of(options, name, node) if shown else None)


def _help_of(options: Options, name: str, node: kc.MenuNode) -> str:
    """Return the first sentence of an option's help, and its default or its condition."""
    said = " ".join((node.help or "").split())
    text = re.split(r"(?<=[a-z0-9)][.;]) ", said, maxsplit=1)[0].rstrip(".;") or node.prompt[0]
    value = options.value(name)
    if value is None:
        return f"{text} (with {' and '.join(options.unmet_flags(name))})"
    if options.is_bool(name):
        value = {"y": "on", "n": "off"}[value]
    return f"{text} (default: {value or 'none'})"


def _add_option(group: Any, options: Options, name: str, text: str | None) -> None:
    """Add the flag of an option; without a `text`, --help does not show it."""
    flag = flag_of(name)
    if text is None:
        text = argparse.SUPPRESS
    else:
        text = text.replace("%", "%%")
        text += ", or LIBRARY:NAME" if name in QUALIFIED else ""
        text += f", or {NUMBERED[name][0]}:N" if name in NUMBERED else ""
    if name in options.choices:
        members = "{" + ",".join(options.members(name)) + "}"
        group.add_argument(flag, dest=name, metavar=members, help=text)
    elif options.symbols[name].orig_type == kc.BOOL:
        group.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, help=text)
    elif name in REPEATABLE:
        one = "one such argument; may be given again, of one key the last counts"
        one = argparse.SUPPRESS if text == argparse.SUPPRESS else one
        group.add_argument(flag, dest=name, metavar="KEY=VALUE,...", help=text)
        group.add_argument(
            REPEATABLE[name], dest=REPEATABLE[name], metavar="KEY=VALUE", action="append", help=one
        )
    else:
        metavar = "N" if options.symbols[name].orig_type == kc.INT else "X"
        metavar = "DURATION" if name in TIMES else metavar
        group.add_argument(flag, dest=name, metavar=metavar, help=text)


def _flags_first(unknown: list[str]) -> list[str]:
    """Return the flags among unknown arguments; all of them if there is no flag."""
    flags = [argument for argument in unknown if argument.startswith("--")]
    return flags or unknown


def _unknown(argument: str, parser: argparse.ArgumentParser) -> str:
    known = [text for action in parser._actions for text in action.option_strings]
    near = hint(argument.partition("=")[0], known)
    kind = "unknown flag" if argument.startswith("-") else "unexpected argument"
    return f"{kind} {argument}{near} (see --help)"
