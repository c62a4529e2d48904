"""Start and end of every entry: one line per error, exit codes, signals, bug reports."""

from __future__ import annotations

import io
import os
import platform
import re
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from gpt2.config.colour import painted
from gpt2.config.environment import remove_harmful
from gpt2.config.errors import Exit, UserError

if TYPE_CHECKING:  # doctor.py must start on older Pythons, too
    from typing import Self

#: Signals that end a process after it has cleaned up.
_TERMINATING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
#: Words in torch's errors about a broken connection between ranks.
_CONNECTIONS = {"gloo", "nccl", "rccl", "tcpstore"}
#: Seconds that a failed rank waits for the first one to report the error.
_FIRST_SPEAKS = 1.0


class Terminated(KeyboardInterrupt):
    """SIGTERM, SIGHUP or SIGUSR1 outside of a run: clean up as after Ctrl-C."""


class _Terminating:
    """Context in which these signals raise Terminated; `told` are the signals received."""

    def __init__(self) -> None:
        self.told: list[int] = []
        # Ignored signals stay ignored, as nohup wants it.
        self._asked = [n for n in _TERMINATING if signal.getsignal(n) is signal.SIG_DFL]

    def __enter__(self) -> Self:
        for number in self._asked:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._asked:
            signal.signal(number, signal.SIG_DFL)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.told.append(number)
        if len(self.told) == 1:  # a repeated signal must not interrupt the clean-up
            raise Terminated


def run_entry(program: str, main: Callable[[], int]) -> NoReturn:
    """Run an entry's `main` and exit with its code; print one line per problem of a UserError.

    A signal that ends `main` ends the process after the clean-up. Under torchrun it ends at once: a
    rank that waits for the others cannot clean up. Any other error is a bug of ours: one line, too,
    with the file that has its traceback.
    """
    remove_harmful()
    _open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a character the terminal lacks is no error
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    signals = _Terminating()
    try:
        with signals if alone else nullcontext():
            code = _code(program, main)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe (head, less) closed it: no traceback, and none at the final flush.
        sys.stdout = None
        code = Exit.OK  # the reader had enough; no error for `make`
    if signals.told and code == Exit.INTERRUPTED:
        sys.stderr.flush()
        os.kill(os.getpid(), signals.told[0])  # tells the parent which signal it was
    if not alone:
        # Under torchrun: at interpreter exit, threads of the ranks' connections sometimes abort a
        # process whose work is done and saved.
        sys.stderr.flush()
        if code != Exit.OK and os.environ.get("RANK", "0") != "0":
            # torchrun kills the others once one has failed: let the first rank report the error
            # before.
            time.sleep(_FIRST_SPEAKS)
        os._exit(int(code))
    sys.exit(int(code))


def _open_streams() -> None:
    """Replace closed standard streams by /dev/null, so that no opened file gets their numbers.

    Otherwise output, and the stacks of a killed process, would go into that file.
    """
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _code(program: str, main: Callable[[], int]) -> int:
    try:
        return main()
    except UserError as error:
        alone = os.environ.get("WORLD_SIZE", "1") == "1"  # even if a batch system sets RANK
        if alone or not error.everywhere or os.environ.get("RANK", "0") == "0":
            for message in error.messages:
                print(f"{error.program or program}: {_error()} {message}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except SystemExit as left:  # argparse, after --help
        return int(left.code or 0)
    except BrokenPipeError:
        raise
    except MemoryError:
        print(f"{program}: {_error()} out of memory", file=sys.stderr)
        return Exit.MEMORY
    except Exception as error:
        if os.environ.get("WORLD_SIZE", "1") != "1" and _CONNECTIONS & set(_words(error)):
            rank = os.environ.get("RANK", "0")
            print(
                f"{program}: {_error()} rank {rank} lost another one, which says why",
                file=sys.stderr,
            )
        else:
            _keep_bug(program, error)
        return Exit.BUG


def _error() -> str:
    return painted("error:", "red", sys.stderr)


def _words(error: Exception) -> list[str]:
    return re.findall("[a-z]+", str(error).lower())


def _keep_bug(program: str, error: Exception) -> None:
    """Write a bug report to a file, and print its path; if that fails, print the report."""
    whole = "".join(traceback.format_exception(error))
    about = f"{shlex.join(sys.argv)}\nPython {platform.python_version()}, {platform.platform()}\n"
    try:
        handle, path = tempfile.mkstemp(".txt", f"{program}-bug-")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(about + whole)
    except OSError:
        print(whole, end="", file=sys.stderr)
        return
    said = str(error).strip().splitlines()[:1]
    kind = ": ".join([type(error).__name__, *said])
    print(
        f"{program}: {_error()} this is a bug of this program, not of yours ({kind}); what a "
        f"report of it needs is in {path}",
        file=sys.stderr,
    )
