"""Turn a corpus into tokens: train.bin, val.bin and meta.json in DATA_DIR/CORPUS."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not __package__:
    # See train.py: a script's own folder must not be on the path, the repository must.
    _here = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == _here:
        sys.path.pop(0)
    sys.path.insert(0, os.path.dirname(_here))

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from gpt2.config import plugins
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import Exit, UserError, run_entry
from gpt2.config.typed import PLUGIN_PACKAGES, DataConfig, PrepareActions
from gpt2.data.corpus import Request
from gpt2.data.preparation import adopt, already_prepared, prepare
from gpt2.data.tokens import Meta

#: The options of a run that matter here.
OPTIONS = ("DATASET", "TOKENIZER", "DATA_DIR")


def main(argv: Sequence[str]) -> int:
    """Prepare as `argv` says; return the exit code. Data that are there already are left alone."""
    options, actions = parse(
        "prepare_data.py", "Turn a corpus into tokens.", argv, PrepareActions, OPTIONS
    )
    if actions.input and actions.adopt:
        raise UserError("--input and --adopt are two ways to bring data; give one")
    for flag, path in (("--input", actions.input), ("--adopt", actions.adopt)):
        if path and not path.exists():
            raise UserError(f"{flag} {path}: there is no such file or folder", code=Exit.DATA)
    given = any(name.startswith("DATASET_") for name in options.given)
    if not given and (actions.input or actions.adopt):
        # Files of one's own are one's own text, unless they are said to be something else.
        options.give("DATASET", "text", "--dataset")
    config = bind(options).data
    folder = config.data_dir / config.dataset
    if not actions.force:
        source = actions.input or actions.adopt
        if meta := already_prepared(folder, config.dataset, config.tokenizer, source):
            print(f"already prepared in {folder}: {meta.summary()}")
            return 0
    with tqdm(unit="B", unit_scale=True, disable=not sys.stderr.isatty(), leave=False) as bar:
        meta = _prepare(config, actions, folder, bar)
    print(f"prepared in {folder}: {meta.summary()}")
    return 0


def _prepare(config: DataConfig, actions: PrepareActions, folder: Path, bar: tqdm[int]) -> Meta:
    def progress(size: int) -> None:
        bar.update(size)

    if actions.adopt:
        tokenizer = config.tokenizer or ("char" if config.dataset.endswith("-char") else "gpt2")
        return adopt(actions.adopt, folder, config.dataset, tokenizer, progress)
    plugin = plugins.load(PLUGIN_PACKAGES["DATASET"], config.dataset)
    request = Request(actions.input, config.tokenizer, config.data_dir / "downloads")
    return prepare(plugin.open_corpus(request), folder, config.dataset, progress)


if __name__ == "__main__":
    run_entry("prepare_data.py", lambda: main(sys.argv[1:]))
