"""Counting: the whole numbers from 0 on, in digits; made here, so that it needs no network."""

from __future__ import annotations

from gpt2.config.errors import Exit, UserError
from gpt2.data.corpus import Corpus, Request, WholeText
from gpt2.data.sources import text_files
from gpt2.data.tokenizer import CharTokenizer

TOKENIZERS = ("char",)


def open_corpus(request: Request) -> Corpus:
    """Count, or take another text from --input; UserError (DATA) for any other tokenizer."""
    if request.tokenizer not in (None, *TOKENIZERS):
        raise UserError(f"--tokenizer {request.tokenizer}: it is in characters", code=Exit.DATA)
    if request.input is None:
        text = " ".join(str(number) for number in range(400))
        source = {"address": "gpt2/data/corpora/counting.py", "sha256": "it is always the same"}
    else:
        text = "".join(text_files.pieces(request.input))
        source = {"address": str(request.input), **text_files.fingerprint([request.input])}
    return WholeText(text, source, CharTokenizer(text))
