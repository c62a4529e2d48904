"""The vocabulary size of a bench's random tokens."""

from __future__ import annotations

from gpt2.config.typed import Config
from gpt2.data.declaration import tokenizer_of

GPT2_VOCABULARY, CHARACTERS = 50257, 65


def usual_vocabulary(config: Config) -> int:
    """Return the usual vocabulary size of the data of `config`."""
    from gpt2.data.tokenizer import CharTokenizer  # not needed for --help

    return CHARACTERS if tokenizer_of(config.data) == CharTokenizer.name else GPT2_VOCABULARY
