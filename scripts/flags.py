"""Print the flags of a .config, shell-quoted: only what differs from the defaults.

Without a .config it takes the defconfig that fits the machine, and says which and why. With
--unfinished it prints the flags of the newest unfinished run, and its --run-dir. What follows a --
are flags of train.py: they are checked, take the place of the file's, and are printed, too.
"""

from __future__ import annotations

import functools
import itertools
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("flags.py")

from gpt2.config import interpreter
from gpt2.config.actions import TrainActions
from gpt2.config.aliases import with_dashes
from gpt2.config.bind import bind
from gpt2.config.cli import Parser, parse, split_at_dashes
from gpt2.config.entry import run_entry
from gpt2.config.errors import UserError
from gpt2.config.library import is_own_code
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.schema import REPOSITORY, ROOT_TREE
from gpt2.config.text import joined
from gpt2.config.typed import NUMBERED, PATHS, QUALIFIED, REPEATABLE
from gpt2.files.lock import holder
from gpt2.run_dir.folder import unfinished
from scripts.kconfig import start

#: The options that prepare_data.py has, too.
DATA_OPTIONS = ("DATASET", "TOKENIZER", "DATA_DIR")
#: Flags after which train.py only prints an answer.
_ANSWERS = {"-h", "--help", "--help-all", "--version"}


def main() -> int:
    """Print one line of flags.

    Raises UserError when the .config or the flags after -- are wrong.
    """
    parser = Parser(description=__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=REPOSITORY / ".config")
    parser.add_argument("--data", action="store_true", help="only what prepare_data.py takes")
    parser.add_argument("--unfinished", type=Path, help="folder of runs to look through")
    parser.add_argument("--quiet", action="store_true", help="do not say which defconfig it takes")
    parser.add_argument(
        "--unchecked",
        action="store_true",
        help="what follows -- is not for train.py alone: only pass it on",
    )
    own, typed = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own)
    checked = typed if not arguments.unchecked else []
    path, extra = arguments.config, []
    if arguments.unfinished:
        runs = unfinished(arguments.unfinished)
        if not runs:
            raise UserError(f"{arguments.unfinished} holds no unfinished run")
        run = _not_in_use(runs)
        path, extra = run / "config", ["--run-dir", str(run)]
    elif not path.exists() and path.resolve() == REPOSITORY / ".config":
        _refuse_what_is_wrong_anyway(checked)
        path = start.fitting_defconfig(arguments.quiet)
    found = flags(path, extra)  # errors are reported before the data are prepared
    if checked:
        found = settled(path, found, checked, say=not arguments.data)
    else:
        found += typed
    print(shlex.join(of_data(found) if arguments.data else found))
    return 0


def _not_in_use(runs: Sequence[Path]) -> Path:
    """Return the first of `runs` that no process uses, and say on stderr what it leaves out.

    Raises UserError where every one is in use.
    """
    used: list[str] = []
    for run in runs:
        if not (process := holder(run)):
            if used:
                print(f"{joined(used)}: resuming {run}", file=sys.stderr)
            return run
        used.append(f"{run} is in use by {process}")
    raise UserError(f"no unfinished run is free: {joined(used)}")


def _refuse_what_is_wrong_anyway(typed: Sequence[str]) -> None:
    """Raise UserError where the flags `typed` fit no defconfig that `make` may use.

    Only torch can tell which one it uses, and importing it takes seconds.
    """
    problems = []
    for name in (start.CPU_DEFCONFIG, start.GPU_DEFCONFIG) if typed else ():
        path = start.DEFCONFIGS / name
        try:
            settled(path, flags(path), typed, say=False)
        except UserError as error:
            problems.append(error)
        else:
            return
    if problems:
        raise problems[0]


def settled(path: Path, found: Sequence[str], typed: Sequence[str], say: bool) -> list[str]:
    """Return the command line of the file's flags `found`, followed by the flags `typed`.

    Each flag occurs once, as typed last. Flags of the file that do not apply with `typed` are left
    out: with --optimizer adamw, a file's options of Muon. With `say`, stderr names them, and a
    learning rate that was chosen for the file's optimizer. Raises UserError, in the name of
    train.py, for what that would refuse.
    """
    if _ANSWERS & set(typed):
        return [*found, *typed]
    own = {_flag_in(word) for word in typed if word.startswith("--")}
    own |= _held_too(typed)
    kept = [_without_held(words, own) for words in _grouped(found)]
    kept = [words for words in kept if _flag_in(words[0]) not in own]
    theirs = {_flag_in(words[0]) for words in kept}
    left: list[list[str]] = []
    try:
        options, _ = parse("train.py", "", [*itertools.chain(*kept), *typed], TrainActions)
        void = {flag_of(name) for name in options.names() if options.unmet(name)} & theirs
        if void and not options.problems:
            left = [words for words in kept if _flag_in(words[0]) in void]
            kept = [words for words in kept if words not in left]
            options, _ = parse("train.py", "", [*itertools.chain(*kept), *typed], TrainActions)
        bind(options)
    except UserError as error:
        # The file alone is valid: errors about its flags are due to the typed ones.
        first_words = [message.split()[0].strip(":,") for message in error.messages]
        said = zip(first_words, error.messages, strict=True)
        messages = [message for word, message in said if _flag_in(word) not in theirs]
        raise UserError(
            *(messages or error.messages), code=error.code, program="train.py"
        ) from error
    if say and left:
        shown = shlex.join(itertools.chain(*left))
        print(f"not used with {shlex.join(typed)}: {shown}", file=sys.stderr)
    rate = flag_of("LEARNING_RATE")
    if say and flag_of("OPTIMIZER") in own and rate in theirs:
        value, default = options.value("LEARNING_RATE"), options.default("LEARNING_RATE")
        if value != default:
            print(
                f"{path.name} has {rate} {value}, which stays; the default of "
                f"{options.value('OPTIMIZER')} is "
                + (f"{default}: add {rate} {default}" if default else "none"),
                file=sys.stderr,
            )
    return [*itertools.chain(*kept), *_once(typed)]


def _held_too(typed: Sequence[str]) -> set[str]:
    """Return the flags whose value a typed one holds: --device-index for --device cuda:0."""
    text = {_flag_in(words[0]): words[0] + "".join(words[1:]) for words in _grouped(typed)}
    pairs = {**QUALIFIED, **NUMBERED}.items()
    return {flag_of(held) for name, (_, held) in pairs if ":" in text.get(flag_of(name), "")}


def _without_held(words: list[str], own: Collection[str]) -> list[str]:
    """Return a flag of the file as --optimizer library, not po:soap, if a name is typed."""
    for name, (member, held) in QUALIFIED.items():
        if words[0] == flag_of(name) and flag_of(held) in own:
            return [words[0], member] if ":" in words[-1] else words
    return words


def _grouped(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield each flag of a command line with its value."""
    group: list[str] = []
    for word in words:
        if word.startswith("--") and group:
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _flag_in(word: str) -> str:
    """Return the flag in a word of a command line: --no-bias=x -> --bias."""
    flag = with_dashes(word.partition("=")[0])
    return f"--{flag.removeprefix('--no-')}" if flag.startswith("--no-") else flag


def _once(typed: Sequence[str]) -> list[str]:
    """Return words without flags that are given again later, which override them."""
    groups = list(_grouped(typed))
    last = {_flag_in(words[0]): number for number, words in enumerate(groups)}
    return [
        word
        for number, words in enumerate(groups)
        if last[_flag_in(words[0])] == number or words[0].partition("=")[0] in REPEATABLE.values()
        for word in words
    ]


def of_data(found: Sequence[str]) -> list[str]:
    """Return the words of a train.py command line that prepare_data.py needs, too."""
    wanted = [flag_of(name) for name in DATA_OPTIONS]
    groups = [words for words in _grouped(found) if _flag_in(words[0]) in wanted]
    return [word for words in groups for word in words]


def flags(path: Path, more: Sequence[str] = ()) -> list[str]:
    """Return the flags of the .config at `path`, followed by `more`.

    Raises UserError naming every problem.
    """
    options = Options(ROOT_TREE)
    options.read(path)
    bind(options)
    found: list[str] = []
    for name, value in differing(options).items():
        found += words(name, value, options.is_bool(name))
    found += more
    _refuse_own_code(path, found)
    return found


def differing(options: Options) -> dict[str, str]:
    """Return the options that differ from the defaults and have a flag, as {option: value}."""
    found: dict[str, str] = {}
    allowed = _train_names()
    held = {symbol for _, symbol in QUALIFIED.values()}
    for name, value in options.minimal().items():
        if name not in allowed or name in held:
            continue
        # po:soap is more specific than library.
        named = name in QUALIFIED and value == QUALIFIED[name][0]
        found[name] = str(options.value(QUALIFIED[name][1])) if named else value
    return found


@functools.cache
def _train_names() -> frozenset[str]:
    """Return the options with a flag of train.py: the root's tree has more, such as matrix axes."""
    return frozenset(Options().names())


def words(name: str, value: str, yes_or_no: bool) -> list[str]:
    """Return the words of a command line that set an option."""
    flag = flag_of(name)
    if yes_or_no:
        return [flag if value == "y" else flag.replace("--", "--no-", 1)]
    if name in PATHS:
        return [flag, str(REPOSITORY / value) if value else ""]
    if value.startswith("-"):
        return [f"{flag}={value}"]  # otherwise it would look like a flag
    return [flag, value]


def _refuse_own_code(path: Path, found: Sequence[str]) -> None:
    """Raise UserError where `found`, the flags of a file, would run the user's code."""
    for flag, value in itertools.pairwise(found):
        if flag in map(flag_of, QUALIFIED) and ":" in value and is_own_code(value):
            command = shlex.join([*interpreter.command("gpt2/train.py"), *found])
            raise UserError(
                f"{path} names code of your own ({value}), which no file may have executed; "
                f"if it is what you want to run: {command}"
            )


if __name__ == "__main__":
    run_entry("flags.py", main)
