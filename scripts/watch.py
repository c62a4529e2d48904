"""Watch a run or a matrix in a browser: a page of this machine that follows what runs.

Without --run and --matrix it is the one that was last at work. Ctrl-C ends it; runs go on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
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
from scripts.watching.choice import chosen
from scripts.watching.page import gone, matrix_body, run_body
from scripts.watching.server import WatchServer
from scripts.watching.view import WatchedMatrix, WatchedRun


def main(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C. Raises UserError."""
    given = parser().parse_args(argv)
    watched = chosen(given.run, given.matrix, given.runs)
    server = WatchServer(given.port, watched.path.name, lambda cell: body_of(watched, cell))
    print(f"watching {watched.path}\n{server.address}   (Ctrl-C ends this; runs go on)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return Exit.OK


def body_of(watched: WatchedRun | WatchedMatrix, cell: str) -> str:
    """Return the body of the page as things stand, or why there is nothing to see."""
    try:
        if isinstance(watched, WatchedMatrix):
            return matrix_body(watched.look(), cell)
        return run_body(watched.look())
    except (UserError, OSError, ValueError) as error:
        return gone(f"nothing to see now: {error}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = Parser(prog="watch.py", description=__doc__, allow_abbrev=False)
    what = found.add_mutually_exclusive_group()
    what.add_argument("--run", type=Path, metavar="FOLDER", help="the run to watch")
    what.add_argument("--matrix", type=Path, metavar="FOLDER", help="the matrix to watch")
    found.add_argument(
        "--port", type=_port, default=0, metavar="N", help="of 127.0.0.1 (default: a free one)"
    )
    found.add_argument("--runs", type=Path, default=REPOSITORY / "runs", help=argparse.SUPPRESS)
    return found


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text} is no port: a number from 1024 to 65535")
    return int(text)


if __name__ == "__main__":
    run_entry("watch.py", lambda: main(sys.argv[1:]))
