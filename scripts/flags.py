"""Print the flags of a .config, shell-quoted: only what differs from the defaults.

Without a .config it takes the defconfig that fits the machine, and says which and why. With
--unfinished it prints the flags of the newest unfinished run, and its --run-dir. What follows a --
are flags of train.py: it prints them, too, or with --fit only leaves out what they make void.
"""

from __future__ import annotations

import functools
import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("flags.py")

from gpt2.config import interpreter
from gpt2.config.actions import TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import Parser, parse, split_at_dashes
from gpt2.config.entry import run_entry
from gpt2.config.errors import UserError
from gpt2.config.library import is_own_code
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.schema import REPOSITORY, ROOT_TREE
from gpt2.config.typed import PATHS, QUALIFIED
from gpt2.run_dir.folder import unfinished
from scripts.kconfig.start import fitting_defconfig

#: The options that prepare_data.py has too.
DATA_OPTIONS = ("DATASET", "TOKENIZER", "DATA_DIR")


def main() -> int:
    """Print one line of flags. Raises UserError when the .config is wrong."""
    parser = Parser(description=__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=REPOSITORY / ".config")
    parser.add_argument("--data", action="store_true", help="only what prepare_data.py takes")
    parser.add_argument("--unfinished", type=Path, help="folder of runs to look through")
    parser.add_argument("--quiet", action="store_true", help="do not say which defconfig it takes")
    parser.add_argument(
        "--fit",
        action="store_true",
        help="leave out what does not apply with the flags after --",
    )
    own, typed = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own)
    path, extra = arguments.config, []
    if arguments.unfinished:
        runs = unfinished(arguments.unfinished)
        if not runs:
            raise UserError(f"{arguments.unfinished} holds no unfinished run")
        path, extra = runs[0] / "config", ["--run-dir", str(runs[0])]
    elif not path.exists() and path.resolve() == REPOSITORY / ".config":
        path = fitting_defconfig(arguments.quiet)
    found = flags(path, None, extra)  # what is wrong is wrong before the data are prepared, too
    if arguments.data:
        found, typed = flags(path, DATA_OPTIONS), of_data(typed)
    elif arguments.fit:
        found, typed = fitting(path, found, typed), []
    print(shlex.join([*found, *typed]))
    return 0


def fitting(path: Path, found: list[str], typed: Sequence[str]) -> list[str]:
    """Return the flags `found` in the file at `path` without those that do not apply with `typed`.

    With --optimizer adamw a file's options of Muon do not. They are named on the error stream, and
    so is a learning rate that was chosen for the file's optimizer.
    """
    try:
        options, _ = parse("train.py", "", [*found, *typed], TrainActions)
    except UserError:
        return found  # train.py says what is wrong
    if options.problems:
        return found
    own = {word.partition("=")[0].replace("--no-", "--") for word in typed if word[:2] == "--"}
    void = [name for name in options.names() if options.unmet(name) and flag_of(name) not in own]
    flagged = {flag_of(name) for name in void}
    kept: list[str] = []
    left: list[str] = []
    taken = kept
    for word in found:
        if word.startswith("--"):
            taken = left if word.partition("=")[0].replace("--no-", "--") in flagged else kept
        taken.append(word)
    if left:
        print(f"not used with {shlex.join(typed)}: {shlex.join(left)}", file=sys.stderr)
    rate = flag_of("LEARNING_RATE")
    if flag_of("OPTIMIZER") in own and rate in found and rate not in own:
        value = options.value("LEARNING_RATE")
        print(
            f"{path.name} has {rate} {value}, which stays; the default of "
            f"{options.value('OPTIMIZER')} is {options.default('LEARNING_RATE') or 'none'}",
            file=sys.stderr,
        )
    return kept


def of_data(typed: Sequence[str]) -> list[str]:
    """Return the words of a train.py command line that prepare_data.py has to know, too."""
    wanted = [flag_of(name) for name in DATA_OPTIONS]
    found: list[str] = []
    for word, following in itertools.zip_longest(typed, typed[1:]):
        flag, equals, _ = word.partition("=")
        if flag in wanted:
            found += [word] if equals or following is None else [word, following]
    return found


def flags(path: Path, names: Sequence[str] | None = None, more: Sequence[str] = ()) -> list[str]:
    """Return the flags of the .config at `path` (of `names`, or all), and `more` after them.

    Raises UserError naming all that is wrong.
    """
    options = Options(ROOT_TREE)
    options.read(path)
    bind(options)
    found: list[str] = []
    for name, value in differing(options).items():
        if names is None or name in names:
            found += words(name, value, options.is_bool(name))
    found += more
    _refuse_own_code(path, found)
    return found


def differing(options: Options) -> dict[str, str]:
    """Return what differs from the defaults and is a flag, as {option: value}."""
    found: dict[str, str] = {}
    allowed = _train_names()
    held = {symbol for _, symbol in QUALIFIED.values()}
    for name, value in options.minimal().items():
        if name not in allowed or name in held:
            continue
        # po:soap says more than library.
        named = name in QUALIFIED and value == QUALIFIED[name][0]
        found[name] = str(options.value(QUALIFIED[name][1])) if named else value
    return found


@functools.cache
def _train_names() -> frozenset[str]:
    """Return what train.py has a flag for: the root's tree has more, the axes of the matrix."""
    return frozenset(Options().names())


def words(name: str, value: str, yes_or_no: bool) -> list[str]:
    """Return the words of a command line that give an option its value."""
    flag = flag_of(name)
    if yes_or_no:
        return [flag if value == "y" else flag.replace("--", "--no-", 1)]
    if name in PATHS:
        return [flag, str(REPOSITORY / value) if value else ""]
    if value.startswith("-"):
        return [f"{flag}={value}"]  # or it would be taken for a flag
    return [flag, value]


def _refuse_own_code(path: Path, found: Sequence[str]) -> None:
    """Raise UserError where `found`, the flags of a file, would execute code of the user's."""
    for flag, value in itertools.pairwise(found):
        if flag in map(flag_of, QUALIFIED) and ":" in value and is_own_code(value):
            command = shlex.join([*interpreter.command("gpt2/train.py"), *found])
            raise UserError(
                f"{path} names code of your own ({value}), which no file may have executed; "
                f"if it is what you want to run: {command}"
            )


if __name__ == "__main__":
    run_entry("flags.py", main)
