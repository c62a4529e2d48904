"""The errors a user can cause, and the exit codes every entry uses."""

from __future__ import annotations

import io
import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from enum import IntEnum
from typing import NoReturn

#: Seconds that a failed rank leaves the first one to say what went wrong.
_FIRST_SPEAKS = 1.0


class Exit(IntEnum):
    """Exit codes of the entries. 75 is EX_TEMPFAIL: stopped, saved, resume me."""

    OK = 0
    BUG = 1
    CONFIG = 2
    DATA = 3
    CHECKPOINT = 4
    DIVERGED = 5
    MEMORY = 6
    HANG = 7
    PREEMPTED = 75
    INTERRUPTED = 130


class UserError(Exception):
    """Something the user can put right: printed without a traceback, one line per problem.

    `messages` each name a flag, file or value and the way out; `code` is the exit code.
    """

    def __init__(self, *messages: str, code: Exit = Exit.CONFIG) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages
        self.code = code


def run_entry(program: str, main: Callable[[], int]) -> NoReturn:
    """Run an entry's `main` and exit with its code; a UserError becomes one line per problem.

    Any other error is a bug of ours: one line too, with the file that has its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without a character is no error
    try:
        code = _code(program, main)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe (head, less) went away: no traceback, and none at the final flush.
        sys.stdout = None
        code = Exit.BUG
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # Under torchrun: while Python is taken down, threads of the ranks' connections now and then
        # abort a process whose work is done and saved.
        sys.stderr.flush()
        if code != Exit.OK and os.environ.get("RANK", "0") != "0":
            # torchrun ends the others as soon as one has failed: first the first one says why.
            time.sleep(_FIRST_SPEAKS)
        os._exit(int(code))
    sys.exit(int(code))


def _code(program: str, main: Callable[[], int]) -> int:
    try:
        return main()
    except UserError as error:
        # Under torchrun every rank meets the same error, or the first one does: say it once.
        if os.environ.get("RANK", "0") == "0":
            for message in error.messages:
                print(f"{program}: error: {message}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except SystemExit as left:  # argparse, after --help
        return int(left.code or 0)
    except BrokenPipeError:
        raise
    except MemoryError:
        print(f"{program}: error: out of memory", file=sys.stderr)
        return Exit.MEMORY
    except Exception as error:
        _keep_bug(program, error)
        return Exit.BUG


def _keep_bug(program: str, error: Exception) -> None:
    """Write what a report of a bug needs to a file, and say where; never lose it."""
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
        f"{program}: error: this is a bug of this program, not of yours ({kind}); what a report of"
        f" it needs is in {path}",
        file=sys.stderr,
    )
