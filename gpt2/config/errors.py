"""Errors that a user can fix, and the exit codes of every entry."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the entries. 75 is EX_TEMPFAIL: stopped and saved, can be resumed."""

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
    """An error that the user can fix: printed without a traceback, one line per problem.

    messages: each names a flag, file or value and the remedy.
    code: the exit code.
    everywhere: all ranks raise it, or only the first one; the first prints it.
    program: the entry whose error it is, if another one found it.
    """

    def __init__(
        self,
        *messages: str,
        code: Exit = Exit.CONFIG,
        everywhere: bool = True,
        program: str = "",
    ) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages
        self.code = code
        self.everywhere = everywhere
        self.program = program
