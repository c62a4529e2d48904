"""Every .config tool: menuconfig, defconfig, olddefconfig, savedefconfig, list-defconfigs, explain.

These, and nothing else, write .config. A file is written only when its content changes, and what
it held before goes to .config.old.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[0] = str(REPOSITORY)

import kconfiglib as kc

from gpt2.config.bind import bind, option_hints, unwrap
from gpt2.config.errors import UserError, run_entry
from gpt2.config.options import ROOT_TREE, Kconfig, Options, flag_of, nearest
from gpt2.config.typed import Auto, Within

DEFCONFIGS = REPOSITORY / "defconfigs"
HEADER = "# GPT-2 Training Module configuration; 'make menuconfig' changes it\n"


class MenuTree(Kconfig):
    """The tree behind menuconfig: a value that train.py would refuse cannot be saved."""

    def write_config(
        self,
        filename: str | None = None,
        header: str | None = None,
        save_old: bool = True,
        verbose: None = None,
    ) -> str:
        """Check, then write. Raises OSError, which menuconfig shows in a dialog."""
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / "config"
            super().write_config(str(draft), header="")
            try:
                bind(read(draft))
            except UserError as error:
                text = "\n".join(error.messages).replace(f"{draft}:", "line ")
                raise OSError(errno.EINVAL, text, filename) from error
        message: str = super().write_config(filename, HEADER, save_old)
        return message


def read(path: Path) -> Options:
    """Read a .config into the whole tree, its problems collected in the result."""
    options = Options(ROOT_TREE)
    options.read(path)
    return options


def write(options: Options, path: Path) -> None:
    """Write the full .config of `options`, which must be right. Raises UserError."""
    bind(options)
    options.kconfig.write_config(str(path), header=HEADER)


def defconfig(config: Path, name: str) -> None:
    """Make `config` what defconfigs/NAME says. Raises UserError for an unknown name."""
    known = [path.name for path in sorted(DEFCONFIGS.iterdir())]
    if name not in known:
        raise UserError(f"there is no defconfigs/{name}{nearest(name, known)}")
    write(read(DEFCONFIGS / name), config)
    print(f"{config.name} is now defconfigs/{name}; 'make' trains it")


def olddefconfig(config: Path) -> None:
    """Bring `config` up to date: new options get their defaults, lines without effect go."""
    options = Options(ROOT_TREE)
    if config.exists():
        options.read(config)
    for problem in options.check():
        print(f"dropped: {problem}", file=sys.stderr)
    options.kconfig.write_config(str(config), header=HEADER)
    print(f"{config.name} is up to date")


def savedefconfig(config: Path) -> None:
    """Write the file `defconfig`: what `config` has other than the defaults."""
    if not config.exists():
        raise UserError(f"there is no {config}: 'make menuconfig' or a defconfig makes it")
    options = read(config)
    bind(options)
    target = config.with_name("defconfig")
    options.kconfig.write_min_config(str(target), header="")
    print(f"the minimal form is in {target.name}; move it to defconfigs/NAME to keep it")


def menuconfig(config: Path) -> None:
    """Run the menu on a terminal. Raises UserError without one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(
            "menuconfig needs a terminal; without one take a defconfig ('make list-defconfigs'), "
            "or edit .config and run 'make olddefconfig'"
        )
    import menuconfig as menu

    os.environ["KCONFIG_CONFIG"] = str(config)
    tree = MenuTree(ROOT_TREE)
    menu.menuconfig(tree)


def list_defconfigs() -> None:
    """Print every defconfig with the first line of its header."""
    paths = sorted(DEFCONFIGS.iterdir())
    width = max(len(path.name) for path in paths)
    for path in paths:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        print(f"defconfig-{path.name:<{width}}  {first.lstrip('# ')}")


def explain(config: Path, option: str) -> None:
    """Print all there is to know about one option. Raises UserError for an unknown one."""
    name = option.strip().lstrip("-").upper().replace("-", "_").removeprefix("CONFIG_")
    options = read(config) if config.exists() else Options(ROOT_TREE)
    known = options.names()
    for choice in options.choices:
        known += [flag for flag in options.members(choice).values() if flag == name]
    if name not in known:
        raise UserError(f"there is no option {option!r}{nearest(name, known)}")
    item = options.choices.get(name) or options.symbols[name]
    node = item.nodes[0]
    value = options.value(name)
    print(f"{name}   {flag_of(name)}   {node.prompt[0]}")
    print(f"  value: {'none, it plays no part here' if value is None else value or repr('')}")
    print(f"  from: {_source(options, name)}")
    if limits := _limits(options, name):
        print(f"  range: {limits}")
    for part in kc.split_expr(_condition(options, name), kc.AND):
        met = "met" if kc.expr_value(part) else "NOT MET"
        if part is not options.kconfig.y:
            print(f"  needs: {kc.expr_str(part)} ({met})")
    print(f"  declared: {os.path.relpath(node.filename, REPOSITORY)}:{node.linenr}")
    for line in (node.help or "").splitlines():
        print(f"  {line}".rstrip())


def _source(options: Options, name: str) -> str:
    where = options.origin(name)
    if where == flag_of(name):
        return "its default"
    differs = "" if name in options.minimal() else ", the same as its default"
    return where + differs


def _condition(options: Options, name: str) -> object:
    item = options.choices.get(name) or options.symbols[name]
    node = item.nodes[0]
    return node.prompt[1] if node.prompt else node.dep


def _limits(options: Options, name: str) -> str:
    if name in options.choices:
        return ", ".join(options.members(name))
    if bounds := options.bounds(name):
        return bounds
    _, notes = unwrap(option_hints(options)[name])
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
