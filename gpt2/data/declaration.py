"""Constants of a corpus module, read from its source without importing it."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2.config import plugins
from gpt2.config.errors import UserError
from gpt2.config.typed import PLUGIN_PACKAGES, DataConfig

PACKAGE = PLUGIN_PACKAGES["DATASET"]


@dataclass(frozen=True)
class Declaration:
    """Constants of a corpus module.

    `tokenizers` (TOKENIZERS): the tokenizers it supports; the first is the default. `needs_input`
    (NEEDS_INPUT, False if absent): its text is --input, files of the user in any layout.
    """

    tokenizers: tuple[str, ...]
    needs_input: bool


def declaration(dataset: str) -> Declaration:
    """Return the constants of corpus `dataset`.

    Raises UserError where TOKENIZERS is missing.
    """
    found = plugins.constants(PACKAGE, dataset)
    tokenizers = found.get("TOKENIZERS")
    if not (isinstance(tokenizers, tuple) and tokenizers):
        place = f"{PACKAGE.replace('.', '/')}/{dataset.replace('-', '_')}.py"
        raise UserError(f'{place} does not say its tokenizers: add TOKENIZERS = ("gpt2",)')
    return Declaration(tokenizers, bool(found.get("NEEDS_INPUT", False)))


def tokenizer_of(config: DataConfig) -> str:
    """Return the name of the tokenizer for the data of `config`."""
    return config.tokenizer or declaration(config.dataset).tokenizers[0]
