"""The errors a user can cause, and the exit codes every entry uses."""

from __future__ import annotations

import io
import os
import sys
import time
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
    """Run an entry's `main` and exit with its code; a UserError becomes one line per problem."""
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
