"""Watch a run or a matrix in a browser: a page on this machine that follows what runs.

Without --run and --matrix it shows what runs now, also what starts later; while nothing runs, the
newest. Ctrl-C ends the page; runs continue.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("watch.py")

from gpt2.config.cli import Parser
from gpt2.config.entry import run_entry
from gpt2.config.errors import Exit, UserError
from gpt2.config.schema import REPOSITORY
from scripts.watching.choice import Watched, chosen
from scripts.watching.page import gone, matrix_body, measuring_body, run_body
from scripts.watching.server import WatchServer
from scripts.watching.view import WatchedRun


def main(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C.

    Raises UserError.
    """
    given = parser().parse_args(argv)
    now = chosen(given.run, given.matrix, given.runs)
    first = now()
    server = WatchServer(given.port, first.name, lambda cell: body_of(now, cell))
    later = "" if given.run or given.matrix else ", then whatever runs"
    print(
        f"watching {first.path}{later}\n{server.address}   (Ctrl-C ends this; runs continue)",
        flush=True,
    )
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return Exit.OK


def body_of(now: Callable[[], Watched], cell: str) -> str:
    """Return the body of the page of what to watch now, or why there is nothing to show."""
    try:
        watched = now()
        if isinstance(watched, WatchedRun):
            return run_body(watched.look())
        if (measuring := watched.measuring()) is not None:
            return measuring_body(measuring)
        return matrix_body(watched.look(), cell)
    except (UserError, OSError, ValueError) as error:
        return gone(f"nothing to show now: {error}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = Parser(prog="watch.py", description=__doc__, allow_abbrev=False)
    what = found.add_mutually_exclusive_group()
    what.add_argument("--run", type=Path, metavar="FOLDER", help="the run to watch")
    what.add_argument("--matrix", type=Path, metavar="FOLDER", help="the matrix to watch")
    found.add_argument(
        "--port", type=_port, default=0, metavar="N", help="port on 127.0.0.1 (default: a free one)"
    )
    found.add_argument("--runs", type=Path, default=REPOSITORY / "runs", help=argparse.SUPPRESS)
    return found


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text} is not a port: give a number from 1024 to 65535")
    return int(text)


if __name__ == "__main__":
    run_entry("watch.py", lambda: main(sys.argv[1:]))
