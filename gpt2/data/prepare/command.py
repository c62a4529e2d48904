"""prepare_data.py: from its options and actions to finished data."""

from __future__ import annotations

import sys
from pathlib import Path

from gpt2.config import plugins
from gpt2.config.actions import PrepareActions
from gpt2.config.bind import bind
from gpt2.config.errors import Exit, UserError
from gpt2.config.names import nearest
from gpt2.config.options import Options
from gpt2.config.preparation import needs_input
from gpt2.config.text import counted
from gpt2.config.typed import PLUGIN_PACKAGES, DataConfig
from gpt2.data.corpus import Request
from gpt2.data.declaration import tokenizer_of
from gpt2.data.meta import Meta
from gpt2.data.prepare.adoption import adopt
from gpt2.data.prepare.backends import BACKENDS
from gpt2.data.prepare.pipeline import Settings, already_prepared, prepare
from gpt2.data.prepare.progress import Bar
from gpt2.data.sources.text_files import BadFileError
from gpt2.machine.processor import cores

#: The default corpus for the user's own files.
OWN_TEXT = "text"


def run(options: Options, actions: PrepareActions) -> None:
    """Prepare a corpus and print where it is; existing data are left unchanged.

    Raises UserError.
    """
    _check(actions)
    given = any(name.startswith("DATASET_") for name in options.given)
    if not given and (actions.input or actions.adopt):
        # The user's files are corpus "text" unless --dataset says otherwise.
        options.give("DATASET", OWN_TEXT, "--dataset")
    config = bind(options).data
    if (given_in_vain := _for_own_text(actions)) and not needs_input(config.dataset):
        raise UserError(
            f"{given_in_vain} has no effect on --dataset {config.dataset}, whose form is known: it"
            f" is for --dataset {OWN_TEXT}"
        )
    package = PLUGIN_PACKAGES["DATASET"]
    if actions.input and plugins.defines(package, config.dataset, "check_input"):
        plugins.load(package, config.dataset).check_input(actions.input)
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
            actions.end_of_text == "token",
        ):
            print(f"already prepared in {folder}: {meta.summary()}")
            return
    with Bar() as bar:
        try:
            meta = _prepare(config, actions, folder, bar)
        except KeyboardInterrupt:
            raise UserError(
                "interrupted; the same command continues from what is already on the disk",
                code=Exit.INTERRUPTED,
            ) from None
    print(f"prepared in {folder}: {meta.summary()}")
    tokens, block = meta.splits["train"].tokens, int(options.value("BLOCK_SIZE") or 0)
    if tokens <= block:
        print(
            f"warning: {counted(tokens, 'training token')}, and one sequence of the default "
            f"--block-size {block} needs {block + 1:,}: give a longer text, or train with a "
            f"--block-size below {tokens:,} (the model will learn so short a text by heart)",
            file=sys.stderr,
        )


def _check(actions: PrepareActions) -> None:
    """Check that actions do not contradict each other.

    Raises UserError.
    """
    if actions.input and actions.adopt:
        raise UserError("--input and --adopt are two ways to bring data; give one")
    if actions.adopt and actions.max_tokens:
        raise UserError("--max-tokens has no effect on --adopt, which takes all there is")
    for flag, value, known in (
        ("--tokenizer-backend", actions.tokenizer_backend, BACKENDS),
        ("--bad-files", actions.bad_files, ("refuse", "skip")),
        ("--end-of-text", actions.end_of_text, ("text", "token")),
    ):
        if value not in known:
            there = f"there are {', '.join(known)}{nearest(value, [*known])}"
            raise UserError(f"{flag} {value!r}: {there}")
    if actions.adopt and (in_vain := _for_own_text(actions)):
        raise UserError(f"{in_vain} has no effect on --adopt, which reads no text")
    if str(actions.input) == "-":
        raise UserError(
            "--input -: standard input is not read, as the text is read more than once; write it to"
            " a file first: COMMAND > FILE.txt",
            code=Exit.DATA,
        )
    for flag, path in (("--input", actions.input), ("--adopt", actions.adopt)):
        if path and not path.exists():
            raise UserError(f"{flag} {path}: no such file or folder", code=Exit.DATA)


def _for_own_text(actions: PrepareActions) -> str:
    """Return the first flag given that only applies to the user's own text; empty without one."""
    if actions.text_column:
        return f"--text-column {actions.text_column}"
    if actions.bad_files != "refuse":
        return f"--bad-files {actions.bad_files}"
    return f"--end-of-text {actions.end_of_text}" if actions.end_of_text != "text" else ""


def _prepare(config: DataConfig, actions: PrepareActions, folder: Path, bar: Bar) -> Meta:
    if actions.adopt:
        tokenizer = tokenizer_of(config)
        return adopt(actions.adopt, folder, config.dataset, tokenizer, bar.reached, bar.say)
    plugin = plugins.load(PLUGIN_PACKAGES["DATASET"], config.dataset)
    downloads = config.data_dir / "downloads"
    request = Request(
        actions.input,
        config.tokenizer,
        downloads,
        actions.text_column,
        skip_bad=actions.bad_files == "skip",
        end_of_text=actions.end_of_text == "token",
        say=bar.say,
    )
    workers = cores() if actions.workers is None else actions.workers
    settings = Settings(workers, actions.max_tokens, actions.tokenizer_backend)
    try:
        corpus = plugin.open_corpus(request)
        return prepare(corpus, folder, config.dataset, bar.reached, settings, bar.say)
    except BadFileError as error:
        if not needs_input(config.dataset) or actions.input is None or actions.input.is_file():
            raise
        raise UserError(
            f"{error}; --bad-files skip prepares the folder without such files", code=Exit.DATA
        ) from error
