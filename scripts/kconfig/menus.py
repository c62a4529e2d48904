"""The interactive tools: menuconfig, guiconfig, oldconfig."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any, TextIO

import kconfiglib as kc

from gpt2.config import scratch
from gpt2.config.bind import convert, option_hints, unwrap
from gpt2.config.errors import UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE
from gpt2.config.tree import Kconfig
from gpt2.config.typed import Auto, Required
from scripts.kconfig.entries import improve
from scripts.kconfig.files import HEADER, problems_of, refuse_wrong, unmentioned, write
from scripts.kconfig.rate import ChosenRate, chosen_rate, kept_rate
from scripts.kconfig.search import search_help
from scripts.kconfig.start import fitting_defconfig, read_or_start


class MenuTree(Kconfig):
    """The tree of the menus: values that train.py would refuse are neither loaded nor saved.

    The menu shows an OSError in a dialog, and what `write_config` returns.
    """

    began = ChosenRate()

    def load_config(
        self, filename: str | None = None, replace: bool = True, verbose: None = None
    ) -> str:
        """Check, then load.

        Raises OSError.
        """
        path = Path(filename or kc.standard_config_filename())
        if filename is None and not path.exists():
            path = fitting_defconfig()
            filename = str(path)
        if path.exists() and (problems := problems_of(path)):
            raise OSError(errno.EINVAL, "\n".join(problems), str(path))
        message: str = super().load_config(filename, replace, verbose)
        self.began = chosen_rate(self)
        return message

    def write_config(
        self,
        filename: str | None = None,
        header: str | None = HEADER,
        save_old: bool = True,
        verbose: None = None,
    ) -> str:
        """Check, then write.

        Raises OSError.
        """
        try:
            refuse_wrong(self)
        except UserError as error:
            raise OSError(errno.EINVAL, "\n".join(error.messages), filename) from error
        message: str = super().write_config(filename, header, save_old, verbose)
        self.entitle()
        if warning := kept_rate(self, self.began):
            message += f"\n{warning}"
        self.began = chosen_rate(self)  # warned once
        return message

    def entitle(self, more: str = "") -> None:
        """Set the title to that of the mainmenu, followed by `more`."""
        title, condition = self.top_node.prompt
        title = title.partition(": ")[0] + (f": {more}" if more else "")
        self.top_node.prompt = (title, condition)

    def differs(self, path: Path) -> bool:
        """Return whether saving to `path` would change it."""
        with scratch.folder() as folder:
            draft = folder / "config"
            super().write_config(str(draft), HEADER)
            return not path.exists() or draft.read_bytes() != path.read_bytes()


def menuconfig(config: Path) -> None:
    """Run the menu on a terminal.

    Raises UserError without one.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(
            "menuconfig needs a terminal; without one take a defconfig ('make list-defconfigs'), "
            "or edit .config and run 'make olddefconfig'"
        )
    import curses

    try:
        curses.setupterm()
    except curses.error as error:
        raise UserError(
            f"menuconfig: this terminal is not known here (TERM={os.environ.get('TERM', '')!r}:"
            f" {error}); try: TERM=xterm-256color make menuconfig"
        ) from error
    import menuconfig as menu

    said, valid, hints = menu._error, menu._check_valid, option_hints(Options(ROOT_TREE))
    menu._error = lambda text: said(_without_errno(text))

    def is_valid(symbol: kc.Symbol, text: str) -> bool:
        """Check the typed value at once: Kconfig has no fractions."""
        if not valid(symbol, text):
            return False
        if problem := wrong_value(text, hints.get(symbol.name, str)):
            menu._error(problem)
        return not problem

    menu._check_valid = is_valid
    search_help(menu)
    menu._MAIN_HELP_LINES = [_in_words(line) for line in menu._MAIN_HELP_LINES]
    menu._INFO_HELP_LINES = [_in_words(line) for line in menu._INFO_HELP_LINES]
    _show(menu, config)


def _without_errno(text: str) -> str:
    """Return kconfiglib's message about a file, without the name of an error number."""
    return re.sub(r" \(errno: [A-Z]+\)$", "", text)


def _in_words(line: str) -> str:
    """Return a line of the menu's keys with our words for help and search."""
    line = line.replace("[/] Jump to symbol", "[/] Search")
    return line.replace("[?] Symbol info", "[?] Help       ")


def wrong_value(text: str, hint: Any) -> str:
    """Return the problem of a value of an option with annotation `hint`; empty if valid."""
    kind, notes = unwrap(hint)
    automatic = text == "auto" and any(isinstance(note, Auto) for note in notes)
    if not text or automatic or kind not in (int, float):
        return ""
    try:
        convert(text, kind, notes)
    except ValueError as error:
        return str(error)
    return ""


def guiconfig(config: Path) -> None:
    """Run the menu in a window.

    Raises UserError where none can be opened.
    """
    if lack := _lack_of_windows():
        raise UserError(f"guiconfig needs {lack}; 'make menuconfig' is the same menu on a terminal")
    import guiconfig as menu

    valid, hints = menu._check_valid, option_hints(Options(ROOT_TREE))
    menu.messagebox = _Boxes(menu.messagebox)

    def is_valid(dialog: Any, entry: Any, symbol: kc.Symbol, text: str) -> bool:
        """Check the typed value at once, as in the menu on a terminal."""
        if not valid(dialog, entry, symbol, text):
            return False
        if problem := wrong_value(text, hints.get(symbol.name, str)):
            menu.messagebox.showerror("Bad value", problem, parent=dialog)
            entry.focus_set()
        return not problem

    menu._check_valid = is_valid
    _show(menu, config)


class _Boxes:
    """tkinter's messagebox, without error numbers in its errors."""

    def __init__(self, boxes: Any) -> None:
        self._boxes = boxes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._boxes, name)

    def showerror(self, title: str, text: str, **more: Any) -> Any:
        """Show an error."""
        return self._boxes.showerror(title, _without_errno(text), **more)


def _lack_of_windows() -> str:
    """Return why no window can be opened; empty if one can."""
    try:
        import tkinter
    except ImportError:
        return (
            f"tkinter, which the Python in {sys.base_prefix} lacks: install python3-tk for Debian's"
            " Python, or build yours with Tk"
        )
    try:
        tkinter.Tk().destroy()
    except tkinter.TclError:
        return "a display"
    return ""


def _show(menu: Any, config: Path) -> None:
    """Run one of kconfiglib's menus, a module, on `config`."""
    if config.exists() and (problems := problems_of(config)):
        raise UserError(*problems, "correct these lines, or let 'make olddefconfig' drop them")
    os.environ["KCONFIG_CONFIG"] = str(config)
    tree = MenuTree(ROOT_TREE)
    if not config.exists():  # the menu hides what was printed
        start = fitting_defconfig(quiet=True).name
        tree.entitle(f"no {config.name} yet, started from {start}")
    improve(menu, tree, Options().names())
    # An option at its default is not new: do not ask to save when nothing changed.
    menu._needs_save = lambda: tree.differs(config)
    menu.menuconfig(tree)


def oldconfig(config: Path) -> None:
    """Ask about each option that `config` does not mention, and update it.

    Raises UserError, and leaves `config` unchanged, when the answers end early or contradict each
    other.
    """
    options = read_or_start(config)
    dropped = options.check()
    hints = option_hints(options)
    # An answer can add further questions, or remove some.
    while new := unmentioned(options):
        _ask(options, new[0], hints.get(new[0], str))
    write(options, config)
    for problem in dropped:
        print(f"dropped: {problem}", file=sys.stderr)
    print(f"{config.name} is up to date")


def _ask(options: Options, name: str, hint: Any) -> None:
    item = options.choices.get(name) or options.symbols[name]
    default = options.value(name) or ""
    limits = ", ".join(options.members(name)) if name in options.choices else options.bounds(name)
    if options.is_bool(name):
        limits = "y, n"
    question = f"{item.nodes[0].prompt[0]} ({name}) {f'({limits}) ' if limits else ''}[{default}] "
    while True:
        print(question, end="", flush=True)
        answer = _answer(sys.stdin, name)
        if answer == "?":
            print(item.nodes[0].help or "No help.")
            continue
        if not (answer or default) and (needed := _needed(hint)):
            problem = needed  # otherwise the other answers would be lost at the end
        else:
            problem = _take(options, name, answer or default, hint if answer else str)
        if not problem:
            return
        print(f"  {problem}; ? shows the help")


def _answer(stream: TextIO | None, name: str) -> str:
    """Return a line of `stream`, which is None when standard input was closed."""
    try:
        line = stream.readline() if stream else ""
    except UnicodeDecodeError:
        line = ""
    if not line:
        print()
        raise UserError(
            f"oldconfig got no answer about {name}; "
            "'make olddefconfig' takes the default of everything new"
        )
    return line.strip()


def _needed(hint: Any) -> str:
    """Return the message for an option without a default and value; empty if it needs none."""
    return "".join(note.message for note in unwrap(hint)[1] if isinstance(note, Required))


def _take(options: Options, name: str, text: str, hint: Any) -> str:
    """Set option `name`; return nothing, or why `text` is refused and another must follow."""
    known = len(options.problems)
    options.give(name, text, flag_of(name))
    problem = "".join(options.problems[known:])
    del options.problems[known:]
    if not problem and options.value(name) != text:
        problem = f"{text} cannot be set here"
        if bounds := options.bounds(name):
            problem = f"{text} is out of range {bounds}"
    return problem or wrong_value(text, hint)
