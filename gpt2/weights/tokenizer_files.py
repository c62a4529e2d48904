"""The tokenizer files of a Hugging Face folder."""

from __future__ import annotations

import json

from gpt2.data.tokenizer import (
    VOCABULARY,
    VOCABULARY_SHA256,
    Gpt2Tokenizer,
    Tokenizer,
    check_vocabulary,
)

_END_OF_TEXT = "<|endoftext|>"


def tokenizer_files(tokenizer: Tokenizer, block_size: int) -> dict[str, bytes]:
    """Return the files, by name, from which AutoTokenizer makes `tokenizer`; none of characters.

    The published vocabulary is what those files are. Raises UserError (DATA) when it is damaged.
    """
    if not isinstance(tokenizer, Gpt2Tokenizer):
        return {}
    check_vocabulary(VOCABULARY)
    merges, ids = (VOCABULARY / name for name in VOCABULARY_SHA256)
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), _END_OF_TEXT)
    entries = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": block_size, **special}
    return {
        "merges.txt": merges.read_bytes(),
        "vocab.json": ids.read_bytes(),
        "tokenizer_config.json": (json.dumps(entries, indent=2) + "\n").encode(),
    }
