"""How many ids the random tokens of a bench have."""

from __future__ import annotations

from gpt2.config.typed import Config
from gpt2.data.declaration import tokenizer_of

GPT2_VOCABULARY, CHARACTERS = 50257, 65


def usual_vocabulary(config: Config) -> int:
    """Return the size of the vocabulary that the data of `config` would have."""
    from gpt2.data.tokenizer import CharTokenizer  # not needed for --help

    return CHARACTERS if tokenizer_of(config.data) == CharTokenizer.name else GPT2_VOCABULARY
