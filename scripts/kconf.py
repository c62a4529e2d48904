"""Every .config tool: menuconfig, defconfig, olddefconfig, savedefconfig, list-defconfigs, explain.

These, and nothing else, write .config. A file is written only when its content changes, and what
it held before goes to .config.old.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(REPOSITORY)

import kconfiglib as kc

from gpt2.config.bind import bind, option_hints, unwrap
from gpt2.config.errors import UserError, run_entry
from gpt2.config.options import ROOT_TREE, Kconfig, Options, flag_of, nearest
from gpt2.config.typed import Auto, Within

DEFCONFIGS = REPOSITORY / "defconfigs"
HEADER = "# GPT-2 Training Module configuration; 'make menuconfig' changes it\n"


class MenuTree(Kconfig):
    """The tree behind menuconfig: what train.py would refuse is neither loaded nor saved.

    The menu shows an OSError in a dialog.
    """

    def load_config(
        self, filename: str | None = None, replace: bool = True, verbose: None = None
    ) -> str:
        """Check, then load. Raises OSError."""
        path = Path(filename or kc.standard_config_filename())
        if path.exists() and (problems := problems_of(path)):
            raise OSError(errno.EINVAL, "\n".join(problems), str(path))
        return super().load_config(filename, replace, verbose)

    def write_config(
        self,
        filename: str | None = None,
        header: str | None = HEADER,
        save_old: bool = True,
        verbose: None = None,
    ) -> str:
        """Check, then write. Raises OSError."""
        try:
            refuse_wrong(self)
        except UserError as error:
            raise OSError(errno.EINVAL, "\n".join(error.messages), filename) from error
        message: str = super().write_config(filename, header, save_old, verbose)
        return message

    def differs(self, path: Path) -> bool:
        """Whether saving to `path` would change it."""
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / "config"
            super().write_config(str(draft), HEADER)
            return not path.exists() or draft.read_bytes() != path.read_bytes()


def refuse_wrong(tree: Kconfig) -> None:
    """Raise UserError naming every value in `tree` that train.py would refuse."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "config"
        kc.Kconfig.write_config(tree, str(draft), header="")
        try:
            bind(read(draft))
        except UserError as error:
            where = re.compile(re.escape(str(draft)) + r":\d+: ")
            raise UserError(*(where.sub("", message) for message in error.messages)) from None


def problems_of(path: Path) -> list[str]:
    """Return what is wrong with the lines of a .config."""
    try:
        return read(path).check()
    except UserError as error:
        return list(error.messages)


def read(path: Path) -> Options:
    """Read a .config into the whole tree, its problems collected in the result."""
    options = Options(ROOT_TREE)
    options.read(path)
    return options


def write(options: Options, path: Path) -> None:
    """Write the full .config of `options`, which must be right. Raises UserError."""
    refuse_wrong(options.kconfig)
    with _writing(path):
        options.kconfig.write_config(str(path), header=HEADER)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def defconfigs() -> list[Path]:
    """Return the files in defconfigs/, without hidden ones."""
    return sorted(p for p in DEFCONFIGS.glob("*") if p.is_file() and not p.name.startswith("."))


def defconfig(config: Path, name: str) -> None:
    """Make `config` what defconfigs/NAME says. Raises UserError for an unknown name."""
    known = [path.name for path in defconfigs()]
    if name not in known:
        raise UserError(f"there is no defconfigs/{name}{nearest(name, known)}")
    options = read(DEFCONFIGS / name)
    bind(options)
    write(options, config)
    print(f"{config.name} is now defconfigs/{name}; 'make' trains it")


def olddefconfig(config: Path) -> None:
    """Bring `config` up to date: new options get their defaults, lines without effect go.

    Raises UserError, and leaves `config` as it is, when a value would still be refused.
    """
    options = read(config) if config.exists() else Options(ROOT_TREE)
    dropped = options.check()
    write(options, config)
    for problem in dropped:
        print(f"dropped: {problem}", file=sys.stderr)
    print(f"{config.name} is up to date")


def savedefconfig(config: Path) -> None:
    """Write the file `defconfig`: what `config` has other than the defaults."""
    if not config.exists():
        raise UserError(f"there is no {config}: 'make menuconfig' or a defconfig makes it")
    options = read(config)
    bind(options)
    target = config.with_name("defconfig")
    with _writing(target):
        options.kconfig.write_min_config(str(target), header="")
    print(f"the minimal form is in {target.name}; move it to defconfigs/NAME to keep it")


def menuconfig(config: Path) -> None:
    """Run the menu on a terminal. Raises UserError without one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(
            "menuconfig needs a terminal; without one take a defconfig ('make list-defconfigs'), "
            "or edit .config and run 'make olddefconfig'"
        )
    if config.exists() and (problems := problems_of(config)):
        raise UserError(*problems, "correct these lines, or let 'make olddefconfig' drop them")
    import menuconfig as menu

    os.environ["KCONFIG_CONFIG"] = str(config)
    tree = MenuTree(ROOT_TREE)
    # Loading leaves untouched options unset (see Kconfig.load_config). The menu would call each of
    # them new, and ask whether to save when nothing was changed.
    node_text = menu._node_str
    menu._node_str = lambda node: node_text(node).replace(" (NEW)", "")
    menu._needs_save = lambda: tree.differs(config)
    menu.menuconfig(tree)


def list_defconfigs() -> None:
    """Print every defconfig with the first line of its header."""
    paths = defconfigs()
    width = max((len(path.name) for path in paths), default=0)
    for path in paths:
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        print(f"defconfig-{path.name:<{width}}  {first.lstrip('# ')}")


def explain(config: Path, option: str) -> None:
    """Print all there is to know about one option. Raises UserError for an unknown one."""
    name = option.strip().lstrip("-").upper().replace("-", "_").removeprefix("CONFIG_")
    options = read(config) if config.exists() else Options(ROOT_TREE)
    for problem in options.check():
        print(f"not counted: {problem}", file=sys.stderr)
    flags = {known: flag_of(known) for known in options.names()}
    for choice in options.choices:
        for word, member in options.members(choice).items():
            flags[member] = f"{flag_of(choice)} {word}"
    if name not in flags:
        raise UserError(f"there is no option {option!r}{nearest(name, list(flags))}")
    item = options.choices.get(name) or options.symbols[name]
    node = item.nodes[0]
    value = options.value(name)
    print(f"{name}   {flags[name]}   {node.prompt[0]}")
    print(f"  value: {'none, it plays no part here' if value is None else value or repr('')}")
    print(f"  from: {_source(options, name)}")
    if limits := _limits(options, name):
        print(f"  range: {limits}")
    for condition, met in options.conditions(name).items():
        print(f"  needs: {condition} ({'met' if met else 'NOT MET'})")
    print(f"  declared: {os.path.relpath(node.filename, REPOSITORY)}:{node.linenr}")
    for line in (node.help or "").splitlines():
        print(f"  {line}".rstrip())


def _source(options: Options, name: str) -> str:
    where = options.origin(name)
    if where == flag_of(name):
        return "its default"
    if any(problem.startswith(where) for problem in options.check()):
        return f"its default; {where} is refused"
    choice = options.symbols[name].choice if name in options.symbols else None
    differs = (choice.name if choice else name) in options.minimal()
    return where + ("" if differs else ", the same as its default")


def _limits(options: Options, name: str) -> str:
    if name in options.choices:
        return ", ".join(options.members(name))
    if bounds := options.bounds(name):
        return bounds
    _, notes = unwrap(option_hints(options).get(name, str))
    return " or ".join(
        "auto" if isinstance(note, Auto) else note.interval
        for note in notes
        if isinstance(note, Auto | Within)
    )


def main() -> int:
    """Run one tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=REPOSITORY / ".config")
    tools = parser.add_subparsers(dest="tool", required=True)
    for tool in ("menuconfig", "olddefconfig", "savedefconfig", "list-defconfigs"):
        tools.add_parser(tool)
    tools.add_parser("defconfig").add_argument("name")
    tools.add_parser("explain").add_argument("option")
    arguments = parser.parse_args()
    if arguments.tool == "defconfig":
        defconfig(arguments.config, arguments.name)
    elif arguments.tool == "explain":
        explain(arguments.config, arguments.option)
    elif arguments.tool == "list-defconfigs":
        list_defconfigs()
    else:
        simple = {
            "menuconfig": menuconfig,
            "olddefconfig": olddefconfig,
            "savedefconfig": savedefconfig,
        }
        simple[arguments.tool](arguments.config)
    return 0


if __name__ == "__main__":
    run_entry("kconf.py", main)
