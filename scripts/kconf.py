"""The command line of every .config tool, and the tools for defconfigs/ and for updating .config.

Only these tools write .config. A file is written only when its content changes, and its former
content goes to .config.old.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("kconf.py")

from gpt2.config import scratch
from gpt2.config.bind import bind
from gpt2.config.cli import Parser
from gpt2.config.entry import run_entry
from gpt2.config.errors import UserError
from gpt2.config.names import nearest
from gpt2.config.schema import REPOSITORY
from scripts.kconfig.files import read, write, writing
from scripts.kconfig.generate import alldefconfig, merge, randconfig
from scripts.kconfig.menus import guiconfig, menuconfig, oldconfig
from scripts.kconfig.show import diffconfig, explain, listnewconfig
from scripts.kconfig.start import DEFCONFIGS, read_or_start


def defconfigs() -> list[Path]:
    """Return the files in defconfigs/, without hidden ones."""
    return sorted(p for p in DEFCONFIGS.glob("*") if p.is_file() and not p.name.startswith("."))


def defconfig(config: Path, name: str) -> None:
    """Replace `config` by defconfigs/NAME.

    Raises UserError for an unknown name.
    """
    known = [path.name for path in defconfigs()]
    if name not in known:
        raise UserError(f"no defconfigs/{name}{nearest(name, known)}")
    options = read(DEFCONFIGS / name)
    bind(options)
    write(options, config)
    matrix = any(option.startswith("MATRIX_") for option in options.minimal())
    way = "'make test-matrix' runs it" if matrix else "'make' trains it"
    print(f"{config.name} is now defconfigs/{name}; {way}")


def olddefconfig(config: Path) -> None:
    """Update `config`: new options get their defaults, lines without effect are dropped.

    Raises UserError, and leaves `config` unchanged, when a value would still be refused.
    """
    options = read_or_start(config)
    dropped = options.check()
    write(options, config)
    for problem in dropped:
        print(f"dropped: {problem}", file=sys.stderr)
    print(f"{config.name} is up to date")


def savedefconfig(config: Path) -> None:
    """Write the file `defconfig`: what in `config` differs from the defaults."""
    if not config.exists():
        raise UserError(f"no {config}: make it with 'make menuconfig' or a defconfig")
    options = read(config)
    bind(options)
    target = config.with_name("defconfig")
    with writing(target):
        options.kconfig.write_min_config(str(target), header="")
    print(f"the minimal form is in {target.name}; move it to defconfigs/NAME to keep it")


def list_defconfigs() -> None:
    """Print every defconfig with the first line of its header."""
    paths = defconfigs()
    width = max((len(path.name) for path in paths), default=0)
    for path in paths:
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        print(f"defconfig-{path.name:<{width}}  {first.lstrip('# ')}")


def _diff(config: Path, old: str, new: str) -> None:
    """Compare the named files; by default .config.old with `config`, or with its first version."""
    before = Path(old) if old else config.with_name(f"{config.name}.old")
    if not (old or before.exists()):
        raise UserError(
            f"nothing to compare: no {before.name} yet, which changing .config makes; "
            "make diffconfig A=FILE B=FILE compares two files"
        )
    if new or config.exists():
        diffconfig(before, Path(new) if new else config)
        return
    with scratch.folder() as folder:  # the .config that `make` would use
        draft = folder / config.name
        draft.write_text(read_or_start(config).full_text(), encoding="utf-8")
        diffconfig(before, draft)


#: Tools that need only the .config.
TOOLS: dict[str, Callable[[Path], None]] = {
    tool.__name__: tool
    for tool in (
        menuconfig,
        guiconfig,
        oldconfig,
        olddefconfig,
        savedefconfig,
        listnewconfig,
        alldefconfig,
    )
}


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split at a second --: flags of train.py follow it (explain -- NAME -- --optimizer adamw)."""
    if argv.count("--") < 2:
        return argv, []
    cut = argv.index("--", argv.index("--") + 1)
    return argv[:cut], argv[cut + 1 :]


def main() -> int:
    """Run one tool."""
    parser = Parser(description=__doc__)
    parser.add_argument("--config", type=Path, default=REPOSITORY / ".config")
    tools = parser.add_subparsers(dest="tool", required=True)
    for tool in (*TOOLS, "list-defconfigs"):
        tools.add_parser(tool)
    tools.add_parser("defconfig").add_argument("name")
    tools.add_parser("explain").add_argument("option", nargs="?", default="")
    tools.add_parser("merge").add_argument("fragments", nargs="*")
    tools.add_parser("randconfig").add_argument("seed", nargs="?", default="")
    diff = tools.add_parser("diffconfig")
    diff.add_argument("old", nargs="?", default="", help=".config.old if it is not given")
    diff.add_argument("new", nargs="?", default="", help=".config if it is not given")
    words, typed = _split(sys.argv[1:])
    arguments = parser.parse_args(words)
    config: Path = arguments.config
    if arguments.tool == "defconfig":
        defconfig(config, arguments.name)
    elif arguments.tool == "explain":
        explain(config, arguments.option, typed)
    elif arguments.tool == "merge":
        merge(config, arguments.fragments)
    elif arguments.tool == "randconfig":
        randconfig(config, arguments.seed)
    elif arguments.tool == "diffconfig":
        _diff(config, arguments.old, arguments.new)
    elif arguments.tool == "list-defconfigs":
        list_defconfigs()
    else:
        TOOLS[arguments.tool](config)
    return 0


if __name__ == "__main__":
    run_entry("kconf.py", main)
