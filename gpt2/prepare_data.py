"""Turn a corpus into tokens: .bin files and meta.json in DATA_DIR/CORPUS."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not __package__:
    # See train.py: a script's own folder must not be on the path, the repository must.
    _here = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == _here:
        sys.path.pop(0)
    sys.path.insert(0, os.path.dirname(_here))

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tqdm import tqdm

from gpt2.config import plugins
from gpt2.config.actions import PrepareActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import Exit, UserError, run_entry
from gpt2.config.names import nearest
from gpt2.config.typed import PLUGIN_PACKAGES, DataConfig
from gpt2.data.corpus import Request
from gpt2.data.declaration import needs_input, tokenizer_of
from gpt2.data.prepare.backends import BACKENDS
from gpt2.data.prepare.pipeline import Settings, adopt, already_prepared, prepare
from gpt2.data.tokens import Meta

#: The options of a run that matter here.
OPTIONS = ("DATASET", "TOKENIZER", "DATA_DIR")
#: The corpus that files of the user are, unless another is named.
OWN_TEXT = "text"
_LINE_SECONDS = 10  # between lines, where there is no terminal


def main(argv: Sequence[str]) -> int:
    """Prepare as `argv` says; return the exit code. Data that are there already are left alone."""
    options, actions = parse(
        "prepare_data.py", "Turn a corpus into tokens.", argv, PrepareActions, OPTIONS
    )
    _check(actions)
    given = any(name.startswith("DATASET_") for name in options.given)
    if not given and (actions.input or actions.adopt):
        # Files of one's own are one's own text, unless they are said to be something else.
        options.give("DATASET", OWN_TEXT, "--dataset")
    config = bind(options).data
    if actions.text_column and not needs_input(config.dataset):
        raise UserError(
            f"--text-column {actions.text_column}: --dataset {config.dataset} knows where its text"
            f" is; it is for --dataset {OWN_TEXT}"
        )
    folder = config.data_dir / config.dataset
    if not actions.force:
        source = actions.input or actions.adopt
        if meta := already_prepared(
            folder,
            config.dataset,
            config.tokenizer,
            source,
            actions.max_tokens,
            actions.text_column,
        ):
            print(f"already prepared in {folder}: {meta.summary()}")
            return 0
    with Bar() as bar:
        try:
            meta = _prepare(config, actions, folder, bar)
        except KeyboardInterrupt:
            raise UserError(
                "interrupted; the same command goes on from what is safe on the disk",
                code=Exit.INTERRUPTED,
            ) from None
    print(f"prepared in {folder}: {meta.summary()}")
    return 0


def _check(actions: PrepareActions) -> None:
    """Refuse actions that contradict each other; raises UserError."""
    if actions.input and actions.adopt:
        raise UserError("--input and --adopt are two ways to bring data; give one")
    if actions.adopt and actions.max_tokens:
        raise UserError("--max-tokens has no effect on --adopt, which takes all there is")
    if actions.adopt and actions.text_column:
        raise UserError("--text-column has no effect on --adopt, which reads no text")
    if actions.tokenizer_backend not in BACKENDS:
        known = f"there are {', '.join(BACKENDS)}{nearest(actions.tokenizer_backend, [*BACKENDS])}"
        raise UserError(f"--tokenizer-backend {actions.tokenizer_backend!r}: {known}")
    for flag, path in (("--input", actions.input), ("--adopt", actions.adopt)):
        if path and not path.exists():
            raise UserError(f"{flag} {path}: there is no such file or folder", code=Exit.DATA)


def _prepare(config: DataConfig, actions: PrepareActions, folder: Path, bar: Bar) -> Meta:
    if actions.adopt:
        return adopt(actions.adopt, folder, config.dataset, tokenizer_of(config), bar.reached)
    plugin = plugins.load(PLUGIN_PACKAGES["DATASET"], config.dataset)
    downloads = config.data_dir / "downloads"
    request = Request(actions.input, config.tokenizer, downloads, actions.text_column)
    workers = len(os.sched_getaffinity(0)) if actions.workers is None else actions.workers
    settings = Settings(workers, actions.max_tokens, actions.tokenizer_backend)
    corpus = plugin.open_corpus(request)
    return prepare(corpus, folder, config.dataset, bar.reached, settings, bar.say)


class Bar:
    """How far the preparation is, its speed, and the time left where the corpus says its size.

    A bar on a terminal; elsewhere a line every _LINE_SECONDS.
    """

    def __init__(self) -> None:
        self._bar: tqdm[int] | None = None
        self._began = self._printed = time.monotonic()
        self._first = 0

    def reached(self, done: int, total: int | None) -> None:
        """Show that `done` bytes of text of `total` are done; the first call says where it began.

        `total` may be somewhat more than the text.
        """
        if self._bar is None:
            self._first = done
            self._bar = tqdm(
                total=total,
                initial=done,
                unit="B",
                unit_scale=True,
                disable=not sys.stderr.isatty(),
                leave=False,
            )
        self._bar.update(done - self._bar.n)
        now = time.monotonic()
        if self._bar.disable and now - self._printed >= _LINE_SECONDS:
            self._printed = now
            self.say(progress_line(done, total, done - self._first, now - self._began))

    def say(self, line: str) -> None:
        """Print a line for the user, above the bar."""
        tqdm.write(line, file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def progress_line(done: int, total: int | None, since: int, seconds: float) -> str:
    """Say how far it is: `since` bytes of the `done` were done in `seconds`."""
    speed = since / seconds if seconds > 0 else 0.0
    line = f"{done / 1e6:,.0f} MB of text"
    if total is not None:
        line += f" of {total / 1e6:,.0f}"
    line += f", {speed / 1e6:.1f} MB/s"
    if total is not None and speed > 0:
        line += f", about {max(0, total - done) / speed:,.0f} s left"
    return line


if __name__ == "__main__":
    run_entry("prepare_data.py", lambda: main(sys.argv[1:]))
